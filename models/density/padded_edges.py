"""Edges from atoms to the probes of a batch, and padded: one batched product serves all atoms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neupol_cli.models.density.images import Images
from neupol_cli.models.nn.graph import Graph, where_true


@dataclass(frozen=True)
class PaddedEdges:
    """Edges to probes, K for each of A atoms, some of which are padding.

    Attributes:
        receivers: (A K,) the probe; 0 in the padding.
        vectors: (A K, 3) probe - atom; (cutoff, 0, 0) in the padding.
        is_edge: (A K,) bool; false in the padding.
        width: K.
    """

    receivers: Tensor
    vectors: Tensor
    is_edge: Tensor
    width: int


@dataclass(frozen=True)
class ProbeEdges:
    """E edges from atoms to probes, those of an atom one behind the other.

    Attributes:
        senders: (E,) the atom, ascending.
        receivers: (E,) the probe.
        vectors: (E, 3) probe - atom.
        counts: (A,) how many each atom has.
        most: the largest of these.
    """

    senders: Tensor
    receivers: Tensor
    vectors: Tensor
    counts: Tensor
    most: int


def probe_edges(
    graph: Graph, images: Images, points: Tensor, probes: Tensor, cutoff: float
) -> ProbeEdges:
    """Edges from the atoms of a batch to its structures' probes.

    Args:
        graph: B structures with A atoms.
        images: of these atoms.
        points: (A, 3) where the atoms are; differentiable.
        probes: (B, P, 3) Angstrom; differentiable.
        cutoff: Angstrom.
    """
    structure = graph.batch[images.atom_index]  # (G,)
    apart = probes[structure] - images.points[:, None].to(probes.dtype)  # (G, P, 3)
    inside = apart.square().sum(-1) < cutoff**2
    counts = inside.new_zeros(points.shape[0], dtype=torch.long)
    counts = counts.index_add(0, images.atom_index, inside.sum(1))
    # The one look at the device: how many, and of one atom at most.
    total, most = torch.stack((counts.sum(), counts.max())).tolist()
    image, probe = where_true(inside, total).unbind(1)  # sorted by image
    senders = images.atom_index[image]
    receivers = structure[image] * probes.shape[1] + probe
    shifted = points.index_select(0, senders) + images.shifts[image].to(points.dtype)
    vectors = probes.reshape(-1, 3).index_select(0, receivers) - shifted
    return ProbeEdges(senders, receivers, vectors, counts, most)


def padded_edges(
    graph: Graph, images: Images, points: Tensor, probes: Tensor, cutoff: float
) -> PaddedEdges:
    """The same as :func:`probe_edges`, as many for each atom."""
    edges = probe_edges(graph, images, points, probes, cutoff)
    places, width = _places(edges), max(edges.most, 1)
    return _padded(places, edges.receivers, edges.vectors, points.shape[0], width, cutoff)


def _places(edges: ProbeEdges) -> Tensor:
    """(E,) where the edges go in rows of as many for each atom."""
    rank = torch.arange(edges.senders.shape[0], device=edges.senders.device)
    rank = rank - (edges.counts.cumsum(0) - edges.counts)[edges.senders]
    return edges.senders * max(edges.most, 1) + rank


def _padded(
    places: Tensor, receivers: Tensor, vectors: Tensor, atoms: int, width: int, cutoff: float
) -> PaddedEdges:
    size = atoms * width
    is_edge = torch.zeros(size, dtype=torch.bool, device=places.device)
    is_edge[places] = True
    all_receivers = torch.zeros(size, dtype=torch.long, device=places.device)
    all_receivers[places] = receivers
    padding = vectors.new_zeros(size, 3)
    padding[:, 0] = cutoff
    return PaddedEdges(all_receivers, padding.index_copy(0, places, vectors), is_edge, width)
