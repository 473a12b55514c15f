"""A molecule's dipole from what its atoms have: charges, and vectors of their own.

    y = sum_i q_i (x_i - c) + u_i

c is the centre of mass, so that y does not change with a translation, whatever the charges' sum
(PhysNet, Unke and Meuwly 2019; with u_i, PaiNN, Schutt et al. 2021).
"""

from __future__ import annotations

import ase.data
import torch
from torch import Tensor

from neupol_cli.models.nn.graph import Graph, segment_sum
from neupol_cli.models.nn.harmonics import Constant

MASSES = Constant(torch.from_numpy(ase.data.atomic_masses))  # by atomic number


def dipole(charges: Tensor, own: Tensor, graph: Graph) -> Tensor:
    """The sum of charges times arms and of atoms' own dipoles.

    Args:
        charges: (A, 1) q.
        own: (A, 3) u.
        graph: B structures, where the atoms are.

    Returns:
        (B, 3).
    """
    return segment_sum(charges * arms(graph) + own, graph.batch, graph.size)


def arms(graph: Graph) -> Tensor:
    """(A, 3) from the centre of mass of each structure to its atoms, Angstrom."""
    masses = MASSES.like(graph.positions).index_select(0, graph.numbers)[:, None]  # (A, 1)
    weighted = segment_sum(masses * graph.positions, graph.batch, graph.size)
    centres = weighted / segment_sum(masses, graph.batch, graph.size)  # (B, 3)
    return graph.positions - centres.index_select(0, graph.batch)
