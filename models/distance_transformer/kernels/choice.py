"""Which products over pairs the distance transformer uses: the one place where that is decided."""

from __future__ import annotations

from neupol_cli.models.distance_transformer.kernels.pair_blocks import PairBlocks
from neupol_cli.models.distance_transformer.pairs import EdgeProducts, PairProducts
from neupol_cli.models.kernels import compiler
from neupol_cli.models.nn.graph import Edges


def pair_products(edges: Edges, points: int) -> PairProducts:
    """Dense blocks where the edges fall into small ones; the edges themselves elsewhere, and where
    the environment says ``NEUPOL_KERNELS=0``.

    Args:
        edges: E edges.
        points: how many points they join.
    """
    blocks = PairBlocks.of(edges, points) if compiler.enabled() else None
    return EdgeProducts(edges) if blocks is None else blocks
