"""Atomic charges from electron densities: Hirshfeld, Voronoi deformation density, MBIS, Bader."""
