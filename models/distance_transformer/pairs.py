"""What attention sums over pairs of points, edge by edge."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from neupol_cli.models.nn.graph import Edges, segment_sum


class PairProducts(Protocol):
    """The two products of attention between points that see each other."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """(P, heads, d) queries and keys -> (E, heads) q_i . k_j."""

    def sums(self, weights: Tensor, values: Tensor) -> Tensor:
        """(E, heads) weights, (P, heads, d) values -> (P, heads, d) sum_j w_ij v_j."""


class EdgeProducts:
    """The products as they are written."""

    def __init__(self, edges: Edges) -> None:
        self.edges = edges

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """As :meth:`PairProducts.scores`."""
        receivers, senders = self.edges.receivers, self.edges.senders
        return (q.index_select(0, receivers) * k.index_select(0, senders)).sum(-1)

    def sums(self, weights: Tensor, values: Tensor) -> Tensor:
        """As :meth:`PairProducts.sums`."""
        weighted = values.index_select(0, self.edges.senders) * weights[..., None]
        return segment_sum(weighted, self.edges.receivers, values.shape[0])
