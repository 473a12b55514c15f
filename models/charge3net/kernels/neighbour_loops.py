"""The tensor product of atoms by compiled loops, equal to tensor_product.py."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.charge3net.irreps import Irrep, Multiplicities, Path
from neupol_cli.models.charge3net.linear import Features
from neupol_cli.models.charge3net.neighbourhoods import Neighbourhoods
from neupol_cli.models.kernels.pointers import pointer, threads
from neupol_cli.models.nn.harmonics import Constant

# Numbers that the loops may read beyond the last one, at most.
ROOM = 16
# Distances are rounded up to a multiple, one to spare for room: oneDNN compiles a product anew for
# every number of rows.
ROUNDED = 32


class _Symbols(ctypes.Structure):
    """As in neighbour_loops.cpp."""

    _fields_ = (("places", ctypes.c_void_p), ("values", ctypes.c_void_p))


class _Neighbourhoods(ctypes.Structure):
    """As in neighbour_loops.cpp."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in ("atoms", "each", "harmonics_width", "sent_width", "weights_width")
        ),
        *(
            (name, ctypes.c_void_p)
            for name in ("senders", "edges", "harmonics", "sent", "weights")
        ),
    )  # fmt: skip


class NeighbourLoops:
    """Where a tensor product's numbers lie.

    Args:
        senders: their irreps.
        by_sender: the paths of each irrep that has any.
        tables: for each of these, ((lmax + 1)^2, (2 l1 + 1) sum of 2 l3 + 1) Wigner symbols.
    """

    def __init__(
        self,
        senders: Multiplicities,
        by_sender: dict[Irrep, list[Path]],
        tables: list[Tensor],
    ) -> None:
        self.senders = list(by_sender)
        self.outputs: dict[Irrep, int] = {}
        for irrep, paths in by_sender.items():
            for path in paths:
                self.outputs[path.irrep] = self.outputs.get(path.irrep, 0) + senders[irrep]
        self.sizes = [(2 * degree + 1) * n for (degree, _), n in self.outputs.items()]
        symbols = [
            s for k, t in zip(by_sender, tables, strict=True) for s in _symbols(k, by_sender[k], t)
        ]
        self.places = torch.cat([places for places, _ in symbols])
        self.values = Constant(torch.cat([values for _, values in symbols]))
        counts = [len(values) for _, values in symbols]
        self.paths = torch.tensor(self._paths(senders, by_sender, counts)).view(-1, 10)

    def _paths(
        self, senders: Multiplicities, by_sender: dict[Irrep, list[Path]], counts: list[int]
    ) -> list[tuple[int, ...]]:
        """Of every path what ``Path`` of neighbour_loops.cpp holds, in its order."""
        first = dict(zip(self.outputs, _running(self.sizes), strict=True))
        filled = dict.fromkeys(self.outputs, 0)
        found: list[tuple[int, ...]] = []
        symbols = iter(zip(_running(counts), counts, strict=True))
        sent = weight = 0
        for irrep, paths in by_sender.items():
            rows, channels = 2 * irrep[0] + 1, senders[irrep]
            for path in paths:
                k = path.irrep
                reads = rows, channels, sent, weight, *next(symbols)
                found.append((*reads, 2 * k[0] + 1, first[k], self.outputs[k], filled[k]))
                weight, filled[k] = weight + channels, filled[k] + channels
            sent += rows * channels
        return found

    def __call__(
        self,
        library: ctypes.CDLL,
        sent: Features,
        radial: Callable[[Neighbourhoods], Tensor],
        neighbourhoods: Neighbourhoods,
    ) -> Features:
        """As ``TensorProduct``, by the library of neighbour_loops.cpp."""
        atoms, each = neighbourhoods.senders.shape
        harmonics = neighbourhoods.harmonics.flatten(0, 1)
        numbers = [sent[irrep].flatten(1) for irrep in self.senders]
        packed = torch.cat((*numbers, harmonics.new_zeros(numbers[0].shape[0], ROOM)), 1)
        weights, values = radial(_rounded(neighbourhoods)), self.values.like(harmonics)
        if weights.shape[1] < ROOM:  # the last row is one to spare, but a short one
            weights = functional.pad(weights, (0, 0, 0, ROOM))
        reals = tuple(x.contiguous() for x in (harmonics, packed, weights))
        ends = neighbourhoods.senders.contiguous(), neighbourhoods.edges.contiguous()
        given = _Neighbourhoods(
            atoms, each, *(x.shape[1] for x in reals), *map(pointer, (*ends, *reals))
        )
        symbols = _Symbols(pointer(self.places), pointer(values))
        paths = ctypes.c_long(len(self.paths)), pointer(self.paths)
        out = harmonics.new_empty(atoms * sum(self.sizes))
        library.neighbour_sums(
            threads(), ctypes.byref(given), ctypes.byref(symbols), *paths, pointer(out)
        )
        parts = out.split([atoms * size for size in self.sizes])
        shapes = [(atoms, 2 * degree + 1, n) for (degree, _), n in self.outputs.items()]
        return {k: p.view(s) for k, p, s in zip(self.outputs, parts, shapes, strict=True)}


def _symbols(sender: Irrep, paths: list[Path], table: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each path the symbols that are not zero: (n, 2) m2 and the place of (m1, m3), and (n,)."""
    by_path = table.view(table.shape[0], 2 * sender[0] + 1, -1)  # (m2, m1, m3)
    for part in by_path.split([2 * path.irrep[0] + 1 for path in paths], 2):
        m2, m1, m3 = part.nonzero(as_tuple=True)
        yield torch.stack((m2, m1 * part.shape[2] + m3), 1), part[m2, m1, m3]


def _running(sizes: list[int]) -> list[int]:
    """Where each of several pieces begins, one behind the other."""
    return [sum(sizes[:n]) for n in range(len(sizes))]


def _rounded(neighbourhoods: Neighbourhoods) -> Neighbourhoods:
    """The same with more distances, which nobody reads."""
    more = ROUNDED - neighbourhoods.lengths.shape[0] % ROUNDED
    lengths = functional.pad(neighbourhoods.lengths, (0, more))
    return replace(
        neighbourhoods, lengths=lengths, basis=functional.pad(neighbourhoods.basis, (0, 0, 0, more))
    )
