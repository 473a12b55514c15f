"""ChargE3Net: electron densities from higher-order features; its network and its parts."""
