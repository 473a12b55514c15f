"""What `neupol encoding` does: characteristics and pictures of learned encodings."""
