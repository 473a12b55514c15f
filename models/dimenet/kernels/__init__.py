"""Faster versions of single methods of DimeNet++."""
