"""How C++ is built and chosen, and kernels that several networks share."""
