"""Faster versions of single methods of Equiformer."""
