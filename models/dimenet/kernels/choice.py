"""Which layout of triplets DimeNet uses: the one place where that is decided."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from neupol_cli.models.dimenet.kernels.fan_basis import FanBasis
from neupol_cli.models.dimenet.triplets import Angles, AngularBasis, TripletBasis, Triplets
from neupol_cli.models.kernels import compiler
from neupol_cli.models.nn.graph import Edges


def angular_basis(
    edges: Edges, points: int, radial: Tensor, angles: Callable[[Angles], Tensor]
) -> AngularBasis:
    """Dense blocks; a list of triplets where the environment says ``NEUPOL_KERNELS=0``.

    Args:
        edges: E edges.
        points: how many points they join.
        radial: (E, L N) the radial half of sbf, with its envelope.
        angles: F, from angles (...) to (..., L).
    """
    if compiler.enabled():
        return FanBasis.of(edges, points, radial, angles)
    return TripletBasis.of(Triplets.of(edges, points), radial, angles)
