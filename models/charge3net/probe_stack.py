"""What a probe computes, reduced to what its density reads.

A probe's features with l > 0 never reach the density: they enter the next probe layer through
the self-connection alone, which keeps irreps apart; the tensor product reads atoms, not probes;
and a gate multiplies non-scalars by scalars, never the reverse. What is left of the product
with Y_l is one number a channel, A^{l,p} . Y_l, summed over neighbours with the weight R(r):

    mid_0 = sum_j R(r_ij) C_ll0 (F_lin1(A)_j^{l,p} . Y_l(d_ij)) / sqrt(num_neighbors)

All layers read the same geometry, so all their channels are summed in one go.

Late points (motion.py) send what their atoms are through an F_lin1 of their own, which starts at
zero: a new network is the one without them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from neupol_cli.models.charge3net.config import ChargE3NetConfig
from neupol_cli.models.charge3net.irreps import Irrep, ProbeIrreps, natural, probe_layers
from neupol_cli.models.charge3net.layers import MakeRadial, ProbeLayer
from neupol_cli.models.charge3net.linear import BlockLinear, Features
from neupol_cli.models.charge3net.radial import LayersRadial
from neupol_cli.models.nn.wigner import wigner_3j


@dataclass(frozen=True)
class Columns:
    """Channels of one atom layer's irrep among all that are summed onto a probe.

    Attributes:
        layer, irrep: whose they are.
        start, stop: where they lie among all.
        own: where the layer's R(r) has them: irrep by irrep, 0o before 0e.
        place: where the layer's mid of their parity has them: by l.
    """

    layer: int
    irrep: Irrep
    start: int
    stop: int
    own: slice
    place: slice


class Mid(NamedTuple):
    """What probes receive in one layer.

    Attributes:
        even: (P, channels) mid of 0e.
        odd: (P, channels) mid of 0o, None if that is not read.
    """

    even: Tensor
    odd: Tensor | None

    def first(self, rows: int) -> Mid:
        """Of the first probes."""
        return Mid(self.even[:rows], None if self.odd is None else self.odd[:rows])


@dataclass(frozen=True)
class Sums:
    """What some probes of a tile receive; the others receive nothing.

    Attributes:
        probes: (N,) which of the tile's.
        mids: in each layer, R rows, the first N of which are theirs.
        spherical: (R,) of spherical atoms, zero without a promolecule.
    """

    probes: Tensor
    mids: list[Mid]
    spherical: Tensor


def all_columns(layers: list[ProbeIrreps], lmax: int) -> list[Columns]:
    """Channels by l, then by layer: one product with Y_l serves every layer."""
    columns: list[Columns] = []
    filled = [{True: 0, False: 0} for _ in layers]  # of a layer's mid: natural irreps make 0e
    for degree in range(lmax + 1):
        for n, layer in enumerate(layers):
            own = 0
            for irrep, mul in layer.read.items():
                if irrep[0] == degree:
                    start = columns[-1].stop if columns else 0
                    place = filled[n][natural(irrep)]
                    slices = slice(own, own + mul), slice(place, place + mul)
                    columns.append(Columns(n, irrep, start, start + mul, *slices))
                    filled[n][natural(irrep)] += mul
                own += mul
    return columns


class ProbeStack(nn.Module):
    """All probe layers: ``senders`` once a structure, ``forward`` on what was summed a probe."""

    def __init__(self, config: ChargE3NetConfig, radial: MakeRadial) -> None:
        super().__init__()
        layers = probe_layers(config)
        self.layers = nn.ModuleList(ProbeLayer(irreps, radial) for irreps in layers)
        late = config.mode.senders_per_atom > config.points_per_atom
        read = [layer.read for layer in layers] if late else []
        self.late = nn.ModuleList(BlockLinear(irreps, irreps) for irreps in read)
        for parameter in self.late.parameters():
            nn.init.zeros_(parameter)
        self.scalars = layers[-1].after
        self.columns = all_columns(layers, config.lmax)
        self.width = self.columns[-1].stop
        widths = [(c.irrep[0], c.stop - c.start) for c in self.columns]
        degrees = range(config.lmax + 1)
        self.channels = tuple(sum(n for own, n in widths if own == degree) for degree in degrees)
        # C_ll0 with the factor of a path, sqrt(2 0 + 1), and 1 / sqrt(num_neighbors)
        scale = config.num_neighbors**-0.5
        norms = [float(wigner_3j(n, n, 0)[0, 0, 0]) for n in range(config.lmax + 1)]
        self.factors = [norm * scale for norm in norms]

    def _layers(self) -> list[ProbeLayer]:
        return [cast(ProbeLayer, layer) for layer in self.layers]

    def senders(self, features: list[Features]) -> list[Tensor]:
        """What the harmonics of a probe edge multiply: F_lin1(A) and all that is constant.

        Args:
            features: {(l, p): (A, 2l + 1, channels)} after each atom layer.

        Returns:
            For each l: (A, 2l + 1, columns of l), those of late points behind all atoms.
        """
        atoms = self._sent([layer.lin1 for layer in self._layers()], features)
        if not self.late:
            return atoms
        return [
            torch.cat(rows) for rows in zip(atoms, self._sent(self.late, features), strict=True)
        ]

    def _sent(self, maps: Iterable[nn.Module], features: list[Features]) -> list[Tensor]:
        """The same by one map a layer."""
        sent = [lin1(f) for lin1, f in zip(maps, features, strict=True)]
        return [
            torch.cat([sent[c.layer][c.irrep] for c in self.columns if c.irrep[0] == n], 2) * factor
            for n, factor in enumerate(self.factors)
        ]

    @property
    def radial(self) -> LayersRadial:
        """R(r) of all layers, in the order of the columns."""
        functions = [layer.radial for layer in self._layers()]
        return LayersRadial(functions, [(c.layer, c.own) for c in self.columns])

    def by_layer(self, summed: Tensor) -> list[Mid]:
        """(P, columns) sums over neighbours -> mid of each layer."""
        pieces = summed.split([c.stop - c.start for c in self.columns], 1)
        mids = []
        for n in range(len(self.layers)):
            own = [(c.irrep, p) for c, p in zip(self.columns, pieces, strict=True) if c.layer == n]
            even = torch.cat([piece for irrep, piece in own if natural(irrep)], 1)
            odd = [piece for irrep, piece in own if not natural(irrep)]
            mids.append(Mid(even, torch.cat(odd, 1) if odd else None))
        return mids

    def empty(self, rows: int, like: Tensor) -> list[Mid]:
        """Room for mid of each layer, and so many probes."""
        sizes = [(layer.irreps.even, layer.irreps.odd) for layer in self._layers()]
        return [
            Mid(like.new_empty(rows, even), like.new_empty(rows, odd) if odd else None)
            for even, odd in sizes
        ]

    def places(self, mids: list[Mid]) -> list[Tensor]:
        """Where the sums of each of ``columns`` belong: (P, channels), parts of ``mids``."""
        parts = []
        for c in self.columns:
            even, odd = mids[c.layer]
            whole = odd if odd is not None and not natural(c.irrep) else even
            parts.append(whole[:, c.place])
        return parts

    def forward(self, mids: list[Mid]) -> Features:
        """Mid of each layer -> the probe's last scalars {0e, 0o: (P, n)}."""
        state: Features = {}
        for layer, mid in zip(self._layers(), mids, strict=True):
            state = layer(mid.even, mid.odd, state)
        return state
