"""A structure's sums over neighbours by the Triton kernels: what they read, and their launch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.charge3net.features import AtomFeatures
from neupol_cli.models.charge3net.kernels import probe_kernel
from neupol_cli.models.charge3net.kernels.choice import LMAX
from neupol_cli.models.charge3net.kernels.probe_blocks import (
    PROBES,
    ProbeBlocks,
    in_space,
    probe_blocks,
)
from neupol_cli.models.charge3net.probe_stack import ProbeStack, Sums
from neupol_cli.models.charge3net.promolecule import Promolecule
from neupol_cli.models.density.tiles import Tile

# Channels of a program at most.
COLUMNS = 64
# A distance of an image from a block of probes takes about twice the room of a probe-image pair.
WIDER = 2
# Squares of the harmonics' norms by degree and order, with the factors that the kernel leaves out:
# (2 l + 1) (2 - delta_m0) (l - m)! / (l + m)! times the square of d^m P_l's leading number.
NORMS = (
    (1.0,),
    (3.0, 3.0),
    (5.0, 15.0, 3.75),
    (7.0, 2.625, 26.25, 4.375),
    (9.0, 5.625, 2.8125, 39.375, 4.921875),
)


@dataclass(frozen=True)
class Degree:
    """What the kernel reads of one Y_l.

    Attributes:
        degree: l.
        start: its first column among all.
        channels: how many columns are its.
        columns: of them in a program, a power of two.
        source: (A, 2l + 1, W) the atoms' features, norms of the harmonics included, W a multiple
            of ``columns``, zero beyond the channels.
        table: (2 bins, W) R(r).
    """

    degree: int
    start: int
    channels: int
    columns: int
    source: Tensor
    table: Tensor

    @classmethod
    def of(cls, degree: int, start: int, source: Tensor, table: Tensor) -> Degree:
        """From the sources (A, 2l + 1, C) of a degree and the table of all columns."""
        channels = source.shape[2]
        columns = min(COLUMNS, max(16, triton.next_power_of_2(channels)))
        spare = -channels % columns
        squares = [NORMS[degree][abs(m)] for m in range(-degree, degree + 1)]
        norms = torch.tensor(squares, dtype=torch.float64, device=source.device).sqrt()
        scaled = (source * norms[:, None]).to(source.dtype)
        own = table[:, start : start + channels]
        padded = [functional.pad(x, (0, spare)).contiguous() for x in (scaled, own)]
        return cls(degree, start, channels, columns, padded[0], padded[1])


class ProbeKernel:
    """Launches the kernels on a structure's tiles.

    Args:
        features: float32, of at most Y_LMAX, with their table.
        probes: the layers that the sums are for.
        cutoff: Angstrom.
        promolecule: the spherical atoms, if there are any.
        pairs: how many distances between images and single probes fit in memory.
    """

    def __init__(
        self,
        features: AtomFeatures,
        probes: ProbeStack,
        cutoff: float,
        promolecule: Promolecule | None,
        pairs: int,
    ) -> None:
        if features.table is None or len(features.sources) > LMAX + 1:
            raise ValueError(f"the kernel needs a table of R(r) and harmonics up to Y_{LMAX}")
        self.features, self.atoms, self.pairs = features, promolecule, pairs // WIDER
        self.stack, self.cutoff, self.bins = probes, cutoff, features.table.rows.shape[0] // 2
        self.degrees: list[Degree] = []
        self.width = 0
        for degree, source in enumerate(features.sources):
            if source.shape[2]:
                self.degrees.append(Degree.of(degree, self.width, source, features.table.rows))
            self.width += source.shape[2]

    def sums(self, tile: Tile) -> Sums:
        """What a tile's probes receive, save those that certainly receive nothing."""
        blocks = probe_blocks(tile, in_space(tile.probes), self.cutoff, self.pairs)
        probes = tile.probes[blocks.probes].contiguous()
        summed = probes.new_empty(probes.shape[0], self.width, dtype=torch.float32)
        spherical = torch.zeros_like(summed[:, 0])
        if probes.shape[0]:
            with torch.cuda.device_of(summed):
                self._sum_messages(tile, probes, blocks, summed)
                self._sum_atoms(tile, probes, blocks, spherical)
        return Sums(blocks.probes, self.stack.by_layer(summed), spherical)

    def _sum_messages(
        self, tile: Tile, probes: Tensor, blocks: ProbeBlocks, summed: Tensor
    ) -> None:
        points = tile.images.points.contiguous()
        reach, atom_index = _reach(points, self.cutoff), tile.images.atom_index.int()
        for d in self.degrees:
            stride = d.source.shape[2]
            # Products that no fma names are rounded as PyTorch rounds them, and with them what
            # lies inside the cutoff: a grid has probes just on it.
            probe_kernel.summed_messages[blocks.count, stride // d.columns](
                probes, probes.shape[0], points, atom_index, reach, blocks.first, blocks.near,
                d.source, d.table, summed[:, d.start :], self.width, d.channels, stride,
                (self.bins - 1) / self.cutoff, float(self.bins - 2),
                DEGREE=d.degree, PROBES=PROBES, COLUMNS=d.columns, enable_fp_fusion=False,
            )  # fmt: skip

    def _sum_atoms(
        self, tile: Tile, probes: Tensor, blocks: ProbeBlocks, spherical: Tensor
    ) -> None:
        if self.atoms is None:
            return
        points, heights = tile.images.points.contiguous(), self.atoms.coefficients.contiguous()
        types = self.features.types[tile.images.atom_index].int()
        probe_kernel.summed_atoms[(blocks.count,)](
            probes, probes.shape[0], points, types, _reach(points, self.cutoff), blocks.first,
            blocks.near, self.atoms.exponents, heights, heights.shape[1], self.cutoff**-2,
            spherical, PROBES=PROBES, GAUSSIANS=triton.next_power_of_2(heights.shape[1]),
            enable_fp_fusion=False,
        )  # fmt: skip


def _reach(points: Tensor, cutoff: float) -> Tensor:
    """(1,) float64, the cutoff's square."""
    return torch.full_like(points[:1, 0], cutoff**2)
