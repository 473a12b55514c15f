"""Text formats of structures, read with the line of whatever is wrong; the others through ASE."""
