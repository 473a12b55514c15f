"""Whether Equiformer's messages come from kernels: the one place where that is decided."""

from __future__ import annotations

from neupol_cli.models.kernels import compiler
from neupol_cli.models.nn.graph import Edges


def kernels_serve(edges: Edges) -> bool:
    """Tiles in the edges' own frames; the published formula for no edges, and where the environment
    says ``NEUPOL_KERNELS=0``."""
    return compiler.enabled() and edges.receivers.shape[0] > 0
