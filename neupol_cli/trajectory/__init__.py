"""What `neupol trajectory` does: the paths of movable points as numbers, files and pictures."""
