"""Neighbour lists against brute force, ragged slicing, geometry at zero distance."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neupol_cli.errors import InputError
from neupol_cli.models.nn import neighbours as lists
from neupol_cli.models.nn.graph import Edges, Graph, NeighbourList, ragged, segment_sum
from neupol_cli.models.nn.neighbours import neighbours


def random_cell(kind: str, generator: np.random.Generator) -> tuple[np.ndarray, list[bool]]:
    """A cell of the named kind and its periodicity."""
    size = generator.uniform(3, 6)
    skewed = size * (np.eye(3) + generator.uniform(-0.45, 0.45, (3, 3)))
    cells = {
        "molecule": (np.zeros((3, 3)), [False] * 3),
        "cubic": (size * np.eye(3), [True] * 3),
        "skewed": (skewed, [True] * 3),
        "tiny": (0.4 * skewed, [True] * 3),
        "slab": (skewed, [True, True, False]),
        "wire": (skewed, [False, True, False]),
        "wire without the other vectors": (np.diag([0, 0, size]), [False, False, True]),
    }
    return cells[kind]


def brute_force(atoms: ase.Atoms, cutoff: float) -> set[tuple[int, ...]]:
    """Every (receiver, sender, shift) closer than the cutoff, by trying all images."""
    reach = [range(-12, 13) if periodic else range(1) for periodic in atoms.pbc]
    shifts = np.array(np.meshgrid(*reach, indexing="ij")).reshape(3, -1).T
    found = set()
    for i, here in enumerate(atoms.positions):
        for j, there in enumerate(atoms.positions):
            apart = np.linalg.norm(there + shifts @ atoms.cell.array - here, axis=1)
            for shift in shifts[apart < cutoff]:
                if i != j or shift.any():
                    found.add((i, j, *map(int, shift)))
    return found


KINDS = ["molecule", "cubic", "skewed", "tiny", "slab", "wire", "wire without the other vectors"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_neighbours_equal_brute_force(kind: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    cell, pbc = random_cell(kind, generator)
    # Some atoms lie outside their cell, as they may.
    positions = generator.uniform(-4, 6, (5, 3))
    atoms = ase.Atoms("H5", positions, cell=cell, pbc=pbc)
    graph = Graph.from_atoms([atoms], torch.float64)
    found = neighbours(graph, graph.positions, 3.1)
    shifts = torch.zeros(len(found.senders), 3) if found.shifts is None else found.shifts
    rows = zip(found.receivers.tolist(), found.senders.tolist(), shifts.tolist(), strict=True)
    listed = [(i, j, *map(int, shift)) for i, j, shift in rows]
    assert len(listed) == len(set(listed))
    assert set(listed) == brute_force(atoms, 3.1)
    lengths = Edges.of(found, graph.positions, graph.batch, graph.cell).lengths
    assert len(lengths) == 0 or float(lengths.max()) < 3.1


def test_a_cell_list_and_all_pairs_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    several = [ase.Atoms(f"H{n}", generator.uniform(0, 6, (n, 3))) for n in (1, 7, 30)]
    graph = Graph.from_atoms(several, torch.float64)
    paired = neighbours(graph, graph.positions, 2.5)
    monkeypatch.setattr(lists, "ALL_PAIRS", 0)
    listed = neighbours(graph, graph.positions, 2.5)
    assert listed.shifts is None
    assert torch.equal(paired.receivers, listed.receivers)
    assert torch.equal(paired.senders, listed.senders)


def test_molecules_of_a_batch_do_not_meet() -> None:
    graph = Graph.from_atoms([ase.Atoms("H2"), ase.Atoms("O"), ase.Atoms("N3")], torch.float64)
    found = neighbours(graph, graph.positions, None)
    assert found.receivers.tolist() == [0, 1, 3, 3, 4, 4, 5, 5]
    assert found.senders.tolist() == [1, 0, 4, 5, 3, 5, 3, 4]


def test_periodic_and_molecular_structures_share_a_batch() -> None:
    box = ase.Atoms("He", cell=[2.0, 2.0, 2.0], pbc=True)
    graph = Graph.from_atoms([ase.Atoms("H2", [[0, 0, 0], [0, 0, 1.0]]), box], torch.float64)
    found = neighbours(graph, graph.positions, 2.1)
    assert found.receivers.tolist() == [0, 1] + [2] * 6


def test_all_pairs_of_a_crystal_are_refused() -> None:
    graph = Graph.from_atoms([ase.Atoms("H", cell=[2, 2, 2], pbc=True)], torch.float64)
    with pytest.raises(InputError, match="cutoff"):
        neighbours(graph, graph.positions, None)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.data())
def test_ragged_rows_are_the_slices_one_behind_the_other(counts: list[int], data) -> None:
    offsets = np.concatenate([[0], np.cumsum(counts)])
    chosen = data.draw(st.lists(st.integers(0, len(counts) - 1), min_size=1, max_size=8))
    rows, numbers = ragged(torch.from_numpy(offsets), torch.tensor(chosen))
    slices = [range(offsets[k], offsets[k + 1]) for k in chosen]
    assert rows.tolist() == [row for one in slices for row in one]
    assert numbers.tolist() == [len(one) for one in slices]


def test_lengths_and_directions_at_zero_have_finite_gradients() -> None:
    positions = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    pair = NeighbourList(torch.tensor([0, 1]), torch.tensor([1, 0]))
    edges = Edges.of(pair, positions, torch.zeros(2, dtype=torch.long))
    assert edges.lengths.tolist() == [0, 0]
    assert edges.directions.abs().max() == 0
    total = edges.lengths.sum() + edges.directions.sum()
    (gradient,) = torch.autograd.grad(total, positions, create_graph=True)
    assert torch.isfinite(gradient).all()


def edges_along(d: torch.Tensor, softening: float) -> Edges:
    """(E, 3) vectors as edges."""
    ends = torch.zeros(len(d), dtype=torch.long)
    return Edges(ends, ends, d, softening)


def test_softened_edges_are_the_others_beyond_the_radius() -> None:
    d = torch.linspace(0.5001, 3, 40, dtype=torch.float64)[:, None] * torch.tensor([0.6, 0, -0.8])
    soft, plain = edges_along(d, 0.5), edges_along(d, 0.0)
    assert torch.equal(soft.lengths, plain.lengths)
    torch.testing.assert_close(soft.directions, plain.directions, rtol=0, atol=1e-15)


@pytest.mark.parametrize("quantity", ["lengths", "directions"])
def test_softened_edges_join_with_three_derivatives(quantity: str) -> None:
    """At the radius, and nowhere is there any kink: by the largest of each derivative."""

    def value(r: torch.Tensor) -> torch.Tensor:
        d = r[:, None] * torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
        found = getattr(edges_along(d, 0.5), quantity)
        return found if found.dim() == 1 else found[:, 1]

    for side in (0.5 - 1e-9, 0.5 + 1e-9):
        r = torch.tensor([side], dtype=torch.float64, requires_grad=True)
        derivatives = [value(r)]
        for _ in range(3):
            derivatives += torch.autograd.grad(derivatives[-1].sum(), r, create_graph=True)
        exact = [0.5, 1.0, 0, 0] if quantity == "lengths" else [1.0, 0, 0, 0]
        found = torch.stack(derivatives).flatten().detach()
        torch.testing.assert_close(found, torch.tensor(exact).double(), rtol=0, atol=1e-5)


def test_softened_edges_are_polynomials_at_zero() -> None:
    d = 1e-3 * torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    edges, origin = edges_along(d, 0.5), edges_along(torch.zeros_like(d), 0.5)
    torch.testing.assert_close(origin.lengths, torch.full((20,), 0.15625).double())
    assert not origin.directions.any()
    slope = edges.directions / d
    torch.testing.assert_close(slope, torch.full_like(d, 2.1875 / 0.5), rtol=1e-4, atol=0)
    d.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: edges_along(x, 0.5).directions, d)


def test_segment_sum_counts_every_row_once() -> None:
    values = torch.arange(6.0).view(6, 1)
    summed = segment_sum(values, torch.tensor([2, 0, 2, 2, 0, 3]), 5)
    assert summed.flatten().tolist() == [5, 0, 5, 5, 0]
