"""DeepDFT: electron densities from SchNet's and PaiNN's messages, and what both share."""
