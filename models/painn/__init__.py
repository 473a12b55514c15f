"""PaiNN, for properties."""
