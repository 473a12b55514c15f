"""Equiformer: graph attention with equivariant messages; its network and its parts."""
