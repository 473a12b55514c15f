"""A promolecule: the sum of spherical atoms that a network's density is measured from.

rho_0(r) = sum_i f_{z_i}(|r - x_i|),  f_z(r) = (1 - (r/r_c)^2)^2 sum_k c_zk exp(-a_k r^2)

with fixed exponents a_k and coefficients fitted to densities by least squares. The network then
learns the deformation, what bonding does to the atoms, which is a small part of the density.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neupol_cli.models.charge3net.config import ChargE3NetConfig

# Exponents in 1/Angstrom^2: from the tail of a hydrogen atom to the core hole of a fluorine.
WIDEST, NARROWEST = 0.25, 40.0


class Promolecule(nn.Module):
    """The spherical atoms of some elements, zero until :meth:`fit`."""

    coefficients: Tensor
    exponents: Tensor

    def __init__(self, config: ChargE3NetConfig) -> None:
        super().__init__()
        self.cutoff = config.cutoff
        self.species = len(config.species)
        count = config.promolecule
        ratio = torch.arange(count) / max(count - 1, 1)
        self.register_buffer("exponents", WIDEST * (NARROWEST / WIDEST) ** ratio)
        # Movable points carry no atom: their rows stay zero.
        self.register_buffer("coefficients", torch.zeros(config.sender_types, count))

    def shells(self, squared: Tensor) -> Tensor:
        """(E,) squared distances -> (E, K) enveloped Gaussians."""
        envelope = (1 - squared / self.cutoff**2).clamp(min=0).square()
        return torch.exp(-squared[:, None] * self.exponents) * envelope[:, None]

    def forward(self, squared: Tensor, types: Tensor) -> Tensor:
        """(E,) squared distances and (E,) types of the atoms -> (E,) e/Angstrom^3."""
        return (self.shells(squared) * self.coefficients.index_select(0, types)).sum(1)

    @torch.no_grad()
    def fit(self, design: Tensor, density: Tensor, ridge: float = 1e-8) -> None:
        """Least squares for the coefficients.

        Args:
            design: (P, species * K) the shells summed over the atoms of each element.
            density: (P,) e/Angstrom^3.
            ridge: added to the normal equations, relative to their largest diagonal.
        """
        design, density = design.double(), density.double()
        normal = design.T @ design
        normal += ridge * normal.diagonal().max() * torch.eye(len(normal)).to(normal)
        solved = torch.linalg.solve(normal, design.T @ density)
        self.coefficients.zero_()
        self.coefficients[: self.species] = solved.view(self.species, -1).to(self.coefficients)
