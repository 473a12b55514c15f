"""The probe kernel as long as it runs; where it fails, PyTorch computes the same."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, ClassVar

from neupol_cli.errors import out_of_memory
from neupol_cli.models.charge3net.features import AtomFeatures
from neupol_cli.models.charge3net.probe_stack import ProbeStack, Sums
from neupol_cli.models.charge3net.promolecule import Promolecule
from neupol_cli.models.density.tiles import Tile

if TYPE_CHECKING:  # at run time once it is needed: Triton takes a while, and is not everywhere
    from neupol_cli.models.charge3net.kernels.probe_kernel_launch import ProbeKernel


class ProbeSums:
    """A structure's sums over neighbours, tile by tile.

    Args:
        features: float32, with their table.
        probes: the layers that the sums are for.
        cutoff: Angstrom.
        promolecule: the spherical atoms, if there are any.
        pairs: how many probe-image pairs fit in memory.
    """

    # A failure is the machine's or the network's: it is tried, and warned of, once.
    failed: ClassVar[bool] = False

    def __init__(
        self,
        features: AtomFeatures,
        probes: ProbeStack,
        cutoff: float,
        promolecule: Promolecule | None,
        pairs: int,
    ) -> None:
        self.arguments = features, probes, cutoff, promolecule, pairs
        self.kernel: ProbeKernel | None = None

    def of(self, tile: Tile) -> Sums | None:
        """What a tile's probes receive, or None where the kernel does not run.

        Raises:
            MemoryError, torch.OutOfMemoryError: the tile is too large.
        """
        if ProbeSums.failed:
            return None
        try:
            return self._launched(tile)
        except Exception as error:  # compilers, drivers and caches fail with types of their own
            if out_of_memory(error):
                raise
            ProbeSums.failed = True
            _warn(error)
            return None

    def _launched(self, tile: Tile) -> Sums:
        if self.kernel is None:
            from neupol_cli.models.charge3net.kernels.probe_kernel_launch import ProbeKernel

            self.kernel = ProbeKernel(*self.arguments)
        return self.kernel.sums(tile)


def _warn(error: Exception) -> None:
    reason = (str(error).splitlines() or [""])[0]
    logging.getLogger("neupol").warning(
        "the fused probe kernel does not run here (%s: %s); PyTorch computes the density, "
        "the same but slower",
        type(error).__name__,
        reason,
    )
