"""What a probe computes, reduced to what its density reads.

A probe's features with l > 0 never reach the density: they enter the next probe layer through
the self-connection alone, which keeps irreps apart; the tensor product reads atoms, not probes;
and a gate multiplies non-scalars by scalars, never the reverse. What is left of the product
with Y_l is one number a channel, A^{l,p} . Y_l, summed over neighbours with the weight R(r).
All layers read the same geometry, so all their channels are summed in one go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.models.charge3net.tensor_product import (
    EVEN_SCALAR,
    ODD_SCALAR,
    SILU,
    TANH,
    BlockLinear,
    Features,
    Irrep,
    Multiplicities,
    natural,
    reachable,
)
from neupol_cli.models.nn.harmonics import wigner_3j
from neupol_cli.models.nn.linear import product
from neupol_cli.models.nn.radial_table import GaussianBasis


@dataclass(frozen=True)
class Column:
    """Channels of one atom layer's irrep among all that are summed onto a probe."""

    layer: int
    irrep: Irrep
    start: int
    stop: int


class ProbeLayer(nn.Module):
    """The weights of one probe layer that its scalars depend on.

    Args:
        atoms: irreps of the atoms' features that it reads.
        before: the probe's scalars in: {0e: n, 0o: n}; empty for the first layer, whose
            probes start at zero, so that its self-connection adds nothing.
        after: the probe's scalars out.
        radial: makes the radial part for a number of channels.
    """

    def __init__(
        self,
        atoms: Multiplicities,
        before: Multiplicities,
        after: Multiplicities,
        radial: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.read = {k: mul for k, mul in atoms.items() if natural(k) or ODD_SCALAR in after}
        even = sum(mul for k, mul in self.read.items() if natural(k))
        odd = sum(mul for k, mul in self.read.items() if not natural(k))
        fans = {EVEN_SCALAR: even} | ({ODD_SCALAR: odd} if ODD_SCALAR in after else {})
        self.lin1 = BlockLinear(self.read, self.read)
        self.radial: Any = radial(even + odd)
        self.lin2 = BlockLinear(fans, after)
        self.lin3 = BlockLinear({EVEN_SCALAR: even}, {EVEN_SCALAR: 1})
        self.sc = BlockLinear(before, after)

    def forward(self, even: Tensor, odd: Tensor | None, state: Features) -> Features:
        """Sums (P, fan) and the probe's scalars {0e, 0o: (P, n)} -> its next scalars."""
        maps = self.lin2.matrices()
        kept = {k: product(state[k], m.t()) for k, m in self.sc.matrices().items()}
        both = torch.cat((maps[EVEN_SCALAR], self.lin3.matrices()[EVEN_SCALAR]), 1)
        mixed = product(even, both.t())
        angle = 0.1 * mixed[:, -1:]
        cos, sin = angle.cos(), angle.sin()
        new = mixed[:, :-1] * sin
        if EVEN_SCALAR in kept:
            new = torch.addcmul(new, cos, kept[EVEN_SCALAR])
        after = {EVEN_SCALAR: SILU * functional.silu(new)}
        if odd is not None:
            new = odd @ maps[ODD_SCALAR]
            if ODD_SCALAR in kept:
                new = torch.addcmul(new * sin, cos, kept[ODD_SCALAR])
            after[ODD_SCALAR] = TANH * new.tanh()
        return after


class ProbeStack(nn.Module):
    """All probe layers: ``senders`` once a structure, ``forward`` on what was summed a probe.

    Args:
        atoms: irreps of the atoms' features after each layer.
        hidden: the published irreps.
        lmax: of the harmonics.
        odd: whether pseudoscalars are read at the end.
        radial: makes the radial part for a number of channels.
        num_neighbors: the typical number of neighbours.
    """

    def __init__(
        self,
        atoms: list[Multiplicities],
        hidden: Multiplicities,
        lmax: int,
        odd: bool,
        radial: Callable[[int], nn.Module],
        num_neighbors: float,
    ) -> None:
        super().__init__()
        self.lmax, self.scale = lmax, num_neighbors**-0.5
        self.layers = nn.ModuleList()
        scalars: Multiplicities = {}
        for sent, after in zip(atoms, probe_scalars(atoms, hidden, lmax, odd), strict=True):
            self.layers.append(ProbeLayer(sent, scalars, after, radial))
            scalars = after
        self.scalars = scalars
        self.columns = self._columns()
        self.width = self.columns[-1].stop
        self.norms = [float(wigner_3j(n, n, 0)[0, 0, 0]) for n in range(lmax + 1)]

    def _own(self) -> list[ProbeLayer]:
        return [cast(ProbeLayer, layer) for layer in self.layers]

    def _columns(self) -> list[Column]:
        """Channels by l, then layer: one product with Y_l serves every layer."""
        found: list[Column] = []
        for degree in range(self.lmax + 1):
            for n, layer in enumerate(self._own()):
                for irrep, mul in layer.read.items():
                    if irrep[0] == degree:
                        start = found[-1].stop if found else 0
                        found.append(Column(n, irrep, start, start + mul))
        return found

    def senders(self, features: list[Features]) -> list[Tensor]:
        """Each layer's atom features -> for each l: (A, 2l + 1, columns of l), factors included."""
        sent = [layer.lin1(f) for layer, f in zip(self._own(), features, strict=True)]
        degrees = range(self.lmax + 1)
        return [
            torch.cat([sent[c.layer][c.irrep] for c in self.columns if c.irrep[0] == n], 2)
            * (self.norms[n] * self.scale)
            for n in degrees
        ]

    def table(self, nodes: Tensor, basis: GaussianBasis) -> Tensor:
        """R of all columns at (bins,) distances: (2 bins, columns), see Spots."""
        tables = [layer.radial.table(nodes, basis) for layer in self._own()]
        return torch.cat([tables[n][:, part] for n, part in self._parts()], 1)

    def radial(self, lengths: Tensor, basis: Tensor) -> Tensor:
        """R of all columns at (E,) distances, from the functions themselves: (E, columns)."""
        values = [layer.radial(lengths, basis) for layer in self._own()]
        return torch.cat([values[n][:, part] for n, part in self._parts()], 1)

    def _parts(self) -> list[tuple[int, slice]]:
        """For each column block its layer and where that layer's own radial part keeps it.

        A layer's own order is that of the published code: all that makes 0e and 0o, irrep by
        irrep, 0o before 0e.
        """
        starts: dict[tuple[int, Irrep], int] = {}
        for n, layer in enumerate(self._own()):
            start = 0
            for irrep, mul in layer.read.items():
                starts[n, irrep] = start
                start += mul
        sizes = {(c.layer, c.irrep): c.stop - c.start for c in self.columns}
        keys = [(c.layer, c.irrep) for c in self.columns]
        return [(k[0], slice(starts[k], starts[k] + sizes[k])) for k in keys]

    def forward(self, summed: Tensor) -> Features:
        """(P, columns) summed over neighbours -> the probe's last scalars {0e, 0o: (P, n)}."""
        state: Features = {}
        pieces = summed.split([c.stop - c.start for c in self.columns], 1)
        for n, layer in enumerate(self._own()):
            own = [(c.irrep, p) for c, p in zip(self.columns, pieces, strict=True) if c.layer == n]
            even = torch.cat([p for irrep, p in own if natural(irrep)], 1)
            rest = [p for irrep, p in own if not natural(irrep)]
            state = layer(even, torch.cat(rest, 1) if rest else None, state)
        return state


def probe_scalars(
    atoms: list[Multiplicities], hidden: Multiplicities, lmax: int, odd: bool
) -> list[Multiplicities]:
    """The probes' scalars after each layer, as far as the density depends on them.

    Which irreps a published probe layer has depends on those of the probe before it, so all of
    them are followed here, by name only.
    """
    receivers: Multiplicities = {EVEN_SCALAR: 1}
    found = []
    for sent in atoms:
        receivers = reachable(receivers, lmax, hidden)
        wanted = (EVEN_SCALAR, ODD_SCALAR) if odd else (EVEN_SCALAR,)
        scalars = {k: receivers[k] for k in wanted if k in receivers}
        if not any(not natural(k) for k in sent):
            scalars.pop(ODD_SCALAR, None)
        found.append(scalars)
    return found
