"""One edge of each pair: where a list is known to go both ways, and where it is looked through."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch

from neupol_cli.models.equiformer.kernels.edge_frame import paired
from neupol_cli.models.nn.graph import Edges, Graph
from neupol_cli.models.nn.unique_edges import UniqueEdges
from neupol_cli.models.polarization import movable_edges


def edges(cutoff: float | None) -> Edges:
    """Those of atoms and movable points of structures of 1 to 7 atoms."""
    rng = np.random.default_rng(3)
    heaps = [ase.Atoms(f"H{n}", rng.normal(size=(n, 3)) * 1.5) for n in (4, 1, 7, 2)]
    graph = Graph.from_atoms(heaps, torch.float64)
    moving = graph.positions + 0.1 * torch.from_numpy(rng.normal(size=graph.positions.shape))
    return movable_edges(graph, moving, cutoff, 0.5)


def unaware(known: Edges) -> Edges:
    """The same edges, of which nothing is known."""
    return Edges(known.receivers, known.senders, known.vectors, known.softening)


@pytest.mark.parametrize("cutoff", [None, 2.5, 0.01])
def test_what_is_known_and_what_is_found_are_the_same(cutoff: float | None) -> None:
    known = edges(cutoff)
    assert known.both_ways
    one, other = UniqueEdges.of(known), UniqueEdges.of(unaware(known))
    assert one.mutual == other.mutual == len(known.receivers) // 2
    assert torch.equal(one.edges.receivers, other.edges.receivers)
    assert torch.equal(one.edges.senders, other.edges.senders)
    for found, expected in zip(paired(known), paired(unaware(known)), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("cutoff", [None, 2.5])
def test_received_by_moving_points(cutoff: float | None) -> None:
    """Some stand for two, the others, from atoms, for one; each edge is there once."""
    every = edges(cutoff)
    atoms = 14
    assert bool((every.receivers[: every.first_moving] < atoms).all())
    received = every.received_by_moving(2 * atoms)
    assert bool((received.receivers >= atoms).all()) and not received.both_ways
    unique = UniqueEdges.of(received)
    first = slice(0, unique.mutual)
    ends = torch.stack((unique.edges.receivers, unique.edges.senders))
    assert bool((ends[:, first] >= atoms).all()) and bool((ends[1, unique.mutual :] < atoms).all())
    both = torch.cat((ends, ends[:, first].flip(0)), 1)
    expected = torch.stack((received.receivers, received.senders))
    assert set(map(tuple, both.t().tolist())) == set(map(tuple, expected.t().tolist()))
    assert both.shape == expected.shape
