"""Run folders of `neupol fit` beside each other (`neupol runs`)."""
