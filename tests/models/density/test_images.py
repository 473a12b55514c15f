"""Periodic images, and edges padded to as many for every atom, against all shifts written out."""

from __future__ import annotations

import itertools

import ase
import numpy as np
import torch

from neupol_cli.models.density.images import Images, fractional_bounds, periodic_images
from neupol_cli.models.density.padded_edges import PaddedEdges, padded_edges
from neupol_cli.models.nn.graph import Graph

CUTOFF = 3.1
CELL = np.array([[2.9, 0.2, 0.0], [-0.9, 2.6, 0.3], [0.4, 0.5, 3.1]])
PLACES = np.array([[0.1, 0.2, 0.3], [1.4, 1.1, 0.9], [6.7, 2.0, -2.2]])


def crystal(pbc: tuple[bool, bool, bool] = (True, True, True)) -> Graph:
    """A skewed cell smaller than the cutoff; one atom lies outside of it."""
    return Graph.from_atoms([ase.Atoms("COH", PLACES, cell=CELL, pbc=pbc)], torch.float64)


def scattered(count: int = 30) -> torch.Tensor:
    """(1, count, 3) Angstrom, around the cell and beyond it."""
    generator = torch.Generator().manual_seed(0)
    return 9.0 * torch.rand(1, count, 3, generator=generator, dtype=torch.float64) - 3.0


def neighbours_of(graph: Graph, probes: torch.Tensor) -> tuple[Images, PaddedEdges]:
    images = periodic_images(graph, CUTOFF, *fractional_bounds(graph, probes))
    return images, padded_edges(graph, images, graph.positions, probes, CUTOFF)


def expected_edges(pbc: tuple[bool, bool, bool], probes: np.ndarray) -> list[list[float]]:
    """(probe, atom, distance) of every pair within the cutoff, sorted."""
    ranges = [range(-9, 10) if repeats else range(1) for repeats in pbc]
    edges = []
    for shift in itertools.product(*ranges):
        apart = probes[:, None] - PLACES[None] - np.array(shift) @ CELL
        lengths = np.linalg.norm(apart, axis=2)
        edges += [[*pair, lengths[tuple(pair)]] for pair in np.argwhere(lengths < CUTOFF)]
    return sorted(edges)


def test_every_image_within_the_cutoff_sends_to_a_probe() -> None:
    probes = scattered()
    for pbc in ((True, True, True), (True, False, True), (False, False, False)):
        _, edges = neighbours_of(crystal(pbc), probes)
        atoms = torch.arange(3).repeat_interleave(edges.width)
        lengths = edges.vectors.norm(dim=1)
        rows = torch.stack((edges.receivers.double(), atoms.double(), lengths), 1)[edges.is_edge]
        expected = expected_edges(pbc, probes[0].numpy())
        assert len(expected) > 10
        np.testing.assert_allclose(sorted(rows.tolist()), expected, rtol=0, atol=1e-12)


def test_images_are_their_atoms_shifted() -> None:
    graph = crystal()
    images = periodic_images(graph, CUTOFF)
    assert bool((images.atom_index.diff() >= 0).all())
    torch.testing.assert_close(images.points, graph.positions[images.atom_index] + images.shifts)
    cells = images.shifts @ torch.linalg.inv(torch.from_numpy(CELL))
    torch.testing.assert_close(cells, cells.round(), rtol=0, atol=1e-9)


def test_padding_is_at_the_cutoff_and_no_edge() -> None:
    graph, far = crystal((False, False, False)), torch.full((1, 2, 3), 90.0, dtype=torch.float64)
    _, edges = neighbours_of(graph, torch.cat((far, graph.positions[None, :1]), 1))
    padding = edges.vectors[~edges.is_edge]
    assert len(padding) and bool((padding.norm(dim=1) == CUTOFF).all())
    _, none = neighbours_of(graph, far)
    assert none.width == 1 and not bool(none.is_edge.any())


def test_edges_follow_atoms_and_probes() -> None:
    graph = crystal()
    positions = graph.positions.clone().requires_grad_(True)
    probes = scattered(5).requires_grad_(True)
    images = periodic_images(graph, CUTOFF, *fractional_bounds(graph, probes))
    edges = padded_edges(graph, images, positions, probes, CUTOFF)
    edges.vectors[edges.is_edge].sum().backward()
    assert positions.grad is not None and probes.grad is not None
    torch.testing.assert_close(probes.grad.sum((0, 1)), -positions.grad.sum(0))
    assert float(probes.grad.sum()) == 3 * int(edges.is_edge.sum())
