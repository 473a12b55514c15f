"""Pages on which structures and surfaces of equal density can be turned."""
