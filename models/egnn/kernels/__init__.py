"""Faster versions of single methods of EGNN."""
