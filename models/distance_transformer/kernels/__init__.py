"""Faster versions of single methods of the distance transformer."""
