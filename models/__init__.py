"""One file an architecture, one file a part that architectures share."""
