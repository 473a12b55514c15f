"""Edges from atoms to the probes of a batch, padded: one batched product serves all atoms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neupol_cli.models.density.images import Images
from neupol_cli.models.nn.graph import Graph


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


def padded_edges(
    graph: Graph, images: Images, points: Tensor, probes: Tensor, cutoff: float
) -> PaddedEdges:
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
    image, probe = (apart.square().sum(-1) < cutoff**2).nonzero(as_tuple=True)  # sorted by image
    senders = images.atom_index[image]
    receivers = structure[image] * probes.shape[1] + probe
    shifted = points.index_select(0, senders) + images.shifts[image].to(points.dtype)
    vectors = probes.reshape(-1, 3).index_select(0, receivers) - shifted
    places, width = _places(senders, points.shape[0])
    return _padded(places, receivers, vectors, points.shape[0], width, cutoff)


def _places(senders: Tensor, atoms: int) -> tuple[Tensor, int]:
    """(E,) where edges sorted by sender go, and K."""
    counts = torch.bincount(senders, minlength=atoms)
    width = max(int(counts.max()), 1)
    rank = torch.arange(senders.shape[0], device=senders.device)
    rank = rank - (counts.cumsum(0) - counts)[senders]
    return senders * width + rank, width


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
