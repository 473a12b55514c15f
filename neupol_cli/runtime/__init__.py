"""What `neupol bench-runtime` does: cases, measured, fitted and drawn."""
