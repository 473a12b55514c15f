"""Derivatives of a target by positions and by a strain of space."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from neupol_cli.models.nn.graph import Graph
from neupol_cli.models.streaming import by_positions


class Derivatives(NamedTuple):
    """What comes of differentiating one target.

    Attributes:
        state: (A, dim) of the network.
        values: (B, columns) what was evaluated.
        slope: (A, 3) by the positions, in the target's unit an Angstrom.
        by_strain: (B, 3, 3) by a strain, in the target's unit; None where it was not asked for.
    """

    state: Tensor
    values: Tensor
    slope: Tensor
    by_strain: Tensor | None


def differentiated(
    evaluate: Callable[[Graph], tuple[Tensor, Tensor]],
    graph: Graph,
    target: int,
    stress: bool = False,
    create_graph: bool = False,
) -> Derivatives:
    """A column's derivatives.

    Args:
        evaluate: structures -> (A, dim) the network's state and (B, columns) values.
        graph: the structures.
        target: which column.
        stress: whether to differentiate by a strain of positions and cell too.
        create_graph: whether the derivatives will be differentiated again (training).
    """
    with torch.enable_grad(), by_positions(learnt=create_graph):
        positions = graph.positions.detach().requires_grad_()
        strain = positions.new_zeros(graph.size, 3, 3, requires_grad=stress)
        moved = _strained(graph, positions, strain) if stress else graph.at(positions)
        state, values = evaluate(moved)
        inputs = [positions, strain] if stress else [positions]
        slope, *by_strain = torch.autograd.grad(
            values[:, target].sum(), inputs, create_graph=create_graph
        )
    return Derivatives(state, values, slope, by_strain[0] if stress else None)


def _strained(graph: Graph, positions: Tensor, strain: Tensor) -> Graph:
    """The graph under a symmetric strain of space, x -> x (1 + e)."""
    symmetric = 0.5 * (strain + strain.transpose(1, 2))
    strains = symmetric.index_select(0, graph.batch)
    moved = positions + torch.einsum("ax,axy->ay", positions, strains)
    cell = None if graph.cell is None else graph.cell + graph.cell @ symmetric
    return graph.at(moved, cell)
