"""What `neupol density` does: a model on a grid, numbers and pictures of what comes out."""
