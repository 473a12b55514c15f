"""DimeNet's sum over k as products of dense blocks, one an atom: equal to ``TripletBasis``.

sbf_ln = R_ln(r_kj) F_l(angle_kji) is a product, so its radial half is projected an edge, not a
triplet; the sum over k and l is then a product of the small blocks of fans.py, whose left factors
F_l all blocks of layers share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from neupol_cli.models.dimenet.kernels.fans import FanTriplets
from neupol_cli.models.dimenet.triplets import Angles
from neupol_cli.models.nn.graph import Edges
from neupol_cli.models.nn.linear import product


@dataclass(frozen=True)
class FanBasis:
    """The angular basis in fans.

    Attributes:
        triplets: S slots in all.
        arriving: (S, L N) the radial half of sbf at the slots of edges k -> j.
        angular: for each fan (a, n, n L) [j, i, (k, l)], zero where k is i.
        degrees: L.
    """

    triplets: FanTriplets
    arriving: Tensor
    angular: list[Tensor]
    degrees: int

    @classmethod
    def of(
        cls, edges: Edges, points: int, radial: Tensor, angles: Callable[[Angles], Tensor]
    ) -> FanBasis:
        """From (E, L N) the radial half at every edge k -> j, and F."""
        triplets = FanTriplets(edges, points)
        angular = [angles(fan) * fan.distinct[..., None] for fan in triplets.fans]
        degrees = angular[0].shape[3]
        joined = [block.flatten(2) for block in angular]
        return cls(triplets, triplets.arriving(radial), joined, degrees)

    def turned(self, t: Tensor, narrow: Tensor, wide: Tensor) -> Tensor:
        """As :meth:`AngularBasis.turned`."""
        triplets = self.triplets
        by_degree = narrow.view(narrow.shape[0], self.degrees, -1).unbind(1)
        projected = product(self.arriving, torch.block_diag(*by_degree))  # (S, L b)
        projected = projected.view(triplets.size * self.degrees, narrow.shape[0])
        rows = [size * self.degrees for size in triplets.sizes]
        incoming = triplets.split(triplets.arriving(t))
        fans = zip(projected.split(rows), incoming, self.angular, strict=True)
        return triplets.departed(torch.cat([self._summed(*fan, wide) for fan in fans]))

    def _summed(self, projected: Tensor, t: Tensor, angular: Tensor, wide: Tensor) -> Tensor:
        """One fan: (a n L, b) radial halves, (a n, T), (a, n, n L) -> (a n, T)."""
        weights = product(projected, wide).view(t.shape[0], self.degrees, t.shape[1])
        weighted = (weights * t[:, None]).view(*angular.shape[::2], t.shape[1])  # (a, n L, T)
        return (angular @ weighted).flatten(0, 1)
