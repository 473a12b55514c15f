"""Electrostatic potentials of electron densities and their nuclei."""
