"""Outputs made once more by the command that they name."""
