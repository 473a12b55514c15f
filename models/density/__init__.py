"""What every density network shares: probes, tiles and grids."""
