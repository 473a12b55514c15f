"""What `neupol fit` does: tasks, the loop, its state, its log; one file a part."""
