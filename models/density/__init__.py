"""What every density network shares: periodic images, edges to probes, tiles, grids."""
