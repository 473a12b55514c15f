"""Which of DimeNet's kernels serve: the one place where that is decided."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from neupol_cli.models.dimenet import spherical_basis
from neupol_cli.models.dimenet.kernels import atom_sums as sums
from neupol_cli.models.dimenet.kernels import edge_layers, fan_loops, legendre
from neupol_cli.models.dimenet.kernels.block_layers import Block, BlockLayers, Edgewise
from neupol_cli.models.dimenet.kernels.fan_basis import FanBasis
from neupol_cli.models.dimenet.kernels.fan_loops import FanLoops
from neupol_cli.models.dimenet.triplets import Angles, AngularBasis, TripletBasis, Triplets
from neupol_cli.models.kernels import compiler
from neupol_cli.models.nn.graph import Edges

# Of fewer edges, getting weights ready for the loops costs more than these save.
FEWEST = 512


def angular_basis(
    edges: Edges, points: int, radial: Tensor, angles: Callable[[Angles], Tensor], width: int
) -> AngularBasis:
    """Dense blocks, in compiled loops where these serve; a list of triplets where the environment
    says ``NEUPOL_KERNELS=0``.

    Args:
        edges: E edges.
        points: how many points they join.
        radial: (E, L N) the radial half of sbf, with its envelope.
        angles: F, from angles (...) to (..., L).
        width: T of what is summed.
    """
    if not compiler.enabled():
        return TripletBasis.of(Triplets.of(edges, points), radial, angles)
    basis = FanBasis.of(edges, points, radial, angles)
    loops = fan_loops.library(basis, width)
    return basis if loops is None else FanLoops(basis, loops)


def atom_sums(m: Tensor, radial: Tensor, weight: Tensor, receivers: Tensor, points: int) -> Tensor:
    """sum_j (C r_ji) * m_ji, in a compiled pass where one serves.

    Args:
        m: (E, H).
        radial: (E, N) r.
        weight: (H, N) C.
        receivers: (E,) of the points.
        points: how many there are.

    Returns:
        (points, H).
    """
    loops = sums.library(m) if len(m) >= FEWEST else None
    if loops is None:
        return sums.plainly(m, radial, weight, receivers, points)
    return sums.compiled(loops, m, radial, weight, receivers, points)


def legendre_polynomials(cosines: Tensor, orders: int) -> Tensor:
    """(...,) cosines -> (..., orders) F_l of spherical_basis.py, compiled where that serves."""
    loops = legendre.library(cosines, orders)
    if loops is None:
        return spherical_basis.legendre(cosines, orders)
    return legendre.compiled(loops, cosines, orders)


def edgewise(block: Block, m: Tensor) -> Edgewise:
    """A block's dense layers as compiled loops; the block itself where none serve, on a GPU too, of
    few edges, and if the environment says ``NEUPOL_KERNELS=0``.

    Args:
        block: an interaction.
        m: (E, H) messages.
    """
    loops = edge_layers.library(m, block.down.weight.shape) if len(m) >= FEWEST else None
    return block if loops is None else BlockLayers(block, loops)
