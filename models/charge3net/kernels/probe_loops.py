"""A structure's sums over neighbours by compiled loops: what they read, and their call."""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.charge3net.features import AtomFeatures
from neupol_cli.models.charge3net.probe_stack import ProbeStack, Sums
from neupol_cli.models.charge3net.promolecule import Promolecule
from neupol_cli.models.charge3net.radial import LANES, padded_starts
from neupol_cli.models.density.tiles import Tile
from neupol_cli.models.kernels.pointers import pointer, threads

# Rows are rounded up to a multiple: oneDNN compiles a product anew for every number of rows.
ROUNDED = 128


class _Edges(ctypes.Structure):
    """As in probe_loops.cpp."""

    _fields_ = (
        ("count", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("receivers", "senders", "vectors")),
    )


class _Sources(ctypes.Structure):
    """As in probe_loops.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("table", "packed")),
        *((name, ctypes.c_int64) for name in ("bins", "columns", "width")),
        ("cutoff", ctypes.c_double),
        ("blocks", ctypes.c_void_p),
    )


class _Spherical(ctypes.Structure):
    """As in probe_loops.cpp."""

    _fields_ = (
        ("gaussians", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("types", "exponents", "coefficients", "to")),
    )


class _Piece(ctypes.Structure):
    """As in probe_loops.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("start", "size", "width")),
        ("to", ctypes.c_void_p),
    )


class ProbeLoops:
    """A structure's sums over neighbours, tile by tile: float32, on a CPU.

    Args:
        features: of one structure, with their table.
        probes: the layers that the sums are for.
        cutoff: Angstrom.
        promolecule: the spherical atoms, if there are any.
        library: of probe_loops.cpp.
    """

    def __init__(
        self,
        features: AtomFeatures,
        probes: ProbeStack,
        cutoff: float,
        promolecule: Promolecule | None,
        library: ctypes.CDLL,
    ) -> None:
        if features.table is None:
            raise ValueError("the loops need a table of R(r)")
        self.stack, self.library = probes, library
        channels = probes.channels
        table, packed = features.table.padded, _packed(features.sources, _order(channels))
        blocks = torch.tensor([-(-n // LANES) for n in channels])
        self.alive = table, packed, blocks  # as long as the pointers to them
        self.atoms = _atoms(promolecule, features.types)
        self.sources = _Sources(
            pointer(table), pointer(packed), table.shape[0] // 2, table.shape[1], packed.shape[1],
            cutoff, pointer(blocks),
        )  # fmt: skip
        shifts = [n - sum(channels[:k]) for k, n in enumerate(padded_starts(channels))]
        self.starts = [c.start + shifts[c.irrep[0]] for c in probes.columns]

    def of(self, tile: Tile) -> Sums:
        """What a tile's probes receive, save those that receive nothing."""
        mids = self.stack.empty(_rounded(tile.rows.shape[0]), self.alive[0])
        places = zip(self.starts, self.stack.places(mids), strict=True)
        pieces = [_Piece(start, to.shape[1], to.stride(0), pointer(to)) for start, to in places]
        ends = tile.receivers.contiguous(), tile.senders, tile.vectors.contiguous()
        edges, reached = _Edges(len(ends[0]), *map(pointer, ends)), torch.empty_like(tile.rows)
        spherical = self.alive[0].new_empty(_rounded(len(reached)))
        atoms = _Spherical(self.atoms[1].shape[0], *map(pointer, (*self.atoms, spherical)))
        count = self.library.probe_sums(
            threads(), ctypes.c_long(len(reached)), ctypes.c_long(ROUNDED), ctypes.byref(edges),
            ctypes.byref(self.sources), ctypes.byref(atoms), ctypes.c_long(len(pieces)),
            (_Piece * len(pieces))(*pieces), pointer(reached),
        )  # fmt: skip
        rows = _rounded(count)
        return Sums(reached[:count], [mid.first(rows) for mid in mids], spherical[:rows])


def _atoms(promolecule: Promolecule | None, types: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The atoms' types, and of Gaussians, filled up with zeros, exponents and coefficients."""
    if promolecule is None:
        return types, torch.zeros(0), torch.zeros(0)
    more = (0, -len(promolecule.exponents) % LANES)
    parts = promolecule.exponents, promolecule.coefficients
    exponents, coefficients = (functional.pad(part, more) for part in parts)
    return types, exponents, coefficients


def _rounded(rows: int) -> int:
    return -(-rows // ROUNDED) * ROUNDED


@cache
def _order(channels: tuple[int, ...]) -> Tensor:
    """Which of an atom's numbers the loops read, one behind the other; one past the last for zero.

    An atom has (2l + 1) channels[l] numbers of each l, behind those of the l before.
    """
    total = sum((2 * n + 1) * width for n, width in enumerate(channels))
    order, first = [], 0
    for degree, width in enumerate(channels):
        lane = torch.arange(-(-width // LANES) * LANES).view(-1, 1, LANES)
        row = torch.arange(2 * degree + 1)[:, None]
        order.append(torch.where(lane < width, first + row * width + lane, total).flatten())
        first += (2 * degree + 1) * width
    return torch.cat(order)


def _packed(sources: list[Tensor], order: Tensor) -> Tensor:
    """For every l (A, 2l + 1, channels) -> (A, numbers) in this order."""
    nothing = sources[0].new_zeros(sources[0].shape[0], 1)
    numbers = [source.flatten(1) for source in sources]
    return torch.cat((*numbers, nothing), 1).index_select(1, order)
