"""Pairs of edges that meet at an atom, k -> j -> i, and what DimeNet sums over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from neupol_cli.models.nn.graph import Edges, counted, segment_sum
from neupol_cli.models.nn.linear import product

# Two images of one atom are further apart than this; in Angstrom^2.
SAME = 1e-2


class Angles(Protocol):
    """Angles between j - k and i - j, of any shape: 0 on a straight chain k -> j -> i.

    This is DimeNet's angle as coded in PyTorch Geometric, pi minus the bond angle.
    """

    @property
    def cosines(self) -> Tensor:
        """Their cosines."""

    @property
    def angles(self) -> Tensor:
        """The angles, in [0, pi]; their gradient is finite on straight chains."""


class AngularBasis(Protocol):
    """sbf_kji of all triplets, in whatever layout."""

    def turned(self, t: Tensor, narrow: Tensor, wide: Tensor) -> Tensor:
        """sum_k t_kj * W_2 W_1 sbf_kji.

        Args:
            t: (E, T) by edge k -> j.
            narrow: (b, L N) W_1.
            wide: (T, b) W_2.

        Returns:
            (E, T) by edge j -> i.
        """


@dataclass(frozen=True)
class Triplets:
    """Every edge k -> j with every edge j -> i but its own reverse, T in all.

    Attributes:
        incoming, onward: (T,) the edges k -> j and j -> i.
        to_centre, from_centre: (T, 3) their directions.
    """

    incoming: Tensor
    onward: Tensor
    to_centre: Tensor
    from_centre: Tensor

    @classmethod
    def of(cls, edges: Edges, points: int) -> Triplets:
        """The triplets of E edges between some points."""
        with torch.no_grad():
            incoming, onward = _meeting(edges, points)
            ends = edges.senders.index_select(0, incoming), edges.receivers.index_select(0, onward)
            vectors = edges.vectors.index_select(0, incoming)
            gap = (vectors + edges.vectors.index_select(0, onward)).square().sum(1)
            distinct = (ends[0] != ends[1]) | (gap > SAME)  # an atom's own image is another atom
            incoming, onward = incoming[distinct], onward[distinct]
        directions = (edges.directions.index_select(0, index) for index in (incoming, onward))
        return cls(incoming, onward, *directions)

    @cached_property
    def cosines(self) -> Tensor:
        """(T,), as :class:`Angles` says."""
        return (self.to_centre * self.from_centre).sum(1)

    @cached_property
    def angles(self) -> Tensor:
        """(T,), as :class:`Angles` says."""
        return angle_between(self.from_centre, self.to_centre, self.cosines)


@dataclass(frozen=True)
class TripletBasis:
    """The angular basis as it is written.

    Attributes:
        triplets: T of them.
        sbf: (T, L N) R_ln(r_kj) F_l(angle_kji), index N l + n.
    """

    triplets: Triplets
    sbf: Tensor

    @classmethod
    def of(
        cls, triplets: Triplets, radial: Tensor, angles: Callable[[Angles], Tensor]
    ) -> TripletBasis:
        """From (E, L N) the radial half at every edge k -> j, and F."""
        angular = angles(triplets)[:, :, None]  # (T, L, 1)
        by_degree = radial.index_select(0, triplets.incoming).unflatten(1, (angular.shape[1], -1))
        return cls(triplets, (by_degree * angular).flatten(1))

    def turned(self, t: Tensor, narrow: Tensor, wide: Tensor) -> Tensor:
        """As :meth:`AngularBasis.turned`."""
        weights = product(product(self.sbf, narrow), wide)  # (T, T_emb)
        weighted = t.index_select(0, self.triplets.incoming) * weights
        return segment_sum(weighted, self.triplets.onward, t.shape[0])


def angle_between(a: Tensor, b: Tensor, cosines: Tensor) -> Tensor:
    """atan2(|a x b|, a . b) of unit vectors (..., 3), or of zeros, which have the angle 0."""
    squared = torch.linalg.cross(a, b).square().sum(-1)
    bent = squared > 0
    sines = torch.where(bent, squared, 1.0).sqrt() * bent
    # Of two zeros, in an empty place, atan2 has no derivative.
    return torch.atan2(sines, torch.where(bent | (cosines != 0), cosines, 1.0))


def _meeting(edges: Edges, points: int) -> tuple[Tensor, Tensor]:
    """(M,) each: every edge into an atom with every edge out of it."""
    arriving = counted(edges.receivers, points)
    order = edges.receivers.argsort(stable=True)
    starts = arriving.cumsum(0) - arriving
    counts = arriving.index_select(0, edges.senders)  # of edges that each edge follows
    onward = torch.arange(counts.shape[0], device=counts.device).repeat_interleave(counts)
    rank = torch.arange(onward.shape[0], device=counts.device)
    rank = rank - (counts.cumsum(0) - counts).index_select(0, onward)
    first = starts.index_select(0, edges.senders).index_select(0, onward)
    return order.index_select(0, first + rank), onward
