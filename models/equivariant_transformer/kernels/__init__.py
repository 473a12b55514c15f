"""Faster versions of single methods of the equivariant transformer."""
