"""Files: structures, densities, the HDF5 layer, atomic writes, units."""
