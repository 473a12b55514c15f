"""ChargE3Net's layers: convolution, mixing and gate, among atoms and onto probes.

mid_i = sum_j path(F_lin1(A)_j, Y(d_ij); R(r_ij)) / sqrt(num_neighbors)      Koker et al., eq. 2
t     = 0.1 F_lin3(mid)_0e
y     = cos(t) F_sc(receiver) + sin(t) F_lin2(mid)      mixed; F_lin2(mid) alone without an F_sc
gate  silu(0e), tanh(0o), y sigmoid(its gate) for l > 0, each to second moment 1           gated
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.models.charge3net.irreps import (
    EVEN_SCALAR,
    ODD_SCALAR,
    AtomIrreps,
    ProbeIrreps,
    gate_inputs,
)
from neupol_cli.models.charge3net.linear import BlockLinear, Features
from neupol_cli.models.charge3net.neighbourhoods import Neighbourhoods
from neupol_cli.models.charge3net.radial import Radial
from neupol_cli.models.charge3net.tensor_product import TensorProduct
from neupol_cli.models.nn.activation import SIGMOID, SILU, TANH
from neupol_cli.models.nn.linear import product

MakeRadial = Callable[[int], Radial]  # R(r) of so many channels


class AtomLayer(nn.Module):
    """Convolution and gate among atoms, for those output irreps that somebody reads.

    Args:
        irreps: of what goes in and out.
        radial: makes R(r).
        num_neighbors: the typical number of neighbours.
    """

    def __init__(self, irreps: AtomIrreps, radial: MakeRadial, num_neighbors: float) -> None:
        super().__init__()
        self.irreps = irreps
        inputs, summed = gate_inputs(irreps.outs), irreps.summed
        norm = num_neighbors**-0.5
        self.product = TensorProduct(irreps.inner, irreps.paths, irreps.lmax, norm)
        self.lin1 = BlockLinear(irreps.ins, irreps.inner)
        self.sc = BlockLinear(irreps.ins, inputs)
        self.radial = radial(self.product.weights)
        self.lin2 = BlockLinear(summed, inputs)
        self.lin3 = BlockLinear(summed, {EVEN_SCALAR: 1})

    def forward(self, features: Features, neighbourhoods: Neighbourhoods) -> Features:
        """{(l, p): (A, 2l + 1, channels)} -> those of the next layer."""
        mid = self.product(self.lin1(features), self.radial_weights, neighbourhoods)
        t = 0.1 * self.lin3({EVEN_SCALAR: mid[EVEN_SCALAR]})[EVEN_SCALAR]  # (A, 1, 1)
        return gated(mixed(t, self.sc(features), self.lin2(mid)), self.irreps)

    def radial_weights(self, neighbourhoods: Neighbourhoods) -> Tensor:
        """(E, paths' channels) R(r)."""
        return self.radial(neighbourhoods.lengths, neighbourhoods.basis)


def mixed(t: Tensor, receiver: Features, new: Features) -> Features:
    """cos(t) of the receiver and sin(t) of what is new, or the new alone."""
    cos, sin = t.cos(), t.sin()
    return {
        k: torch.addcmul(cos * receiver[k], sin, v) if k in receiver else v for k, v in new.items()
    }


def gated(y: Features, irreps: AtomIrreps) -> Features:
    """silu on 0e, tanh on 0o, sigmoid gates on everything else.

    Args:
        y: with 0e of scalars and, behind them, of gates in the order of the irreps with l > 0.
        irreps: of the output.
    """
    gates = [irreps.outs[k] for k in irreps.gated]
    scalars, opening = y[EVEN_SCALAR].split([irreps.outs[EVEN_SCALAR], sum(gates)], 2)
    out = {EVEN_SCALAR: SILU * functional.silu(scalars)}
    if ODD_SCALAR in y:
        out[ODD_SCALAR] = TANH * y[ODD_SCALAR].tanh()
    opened = (SIGMOID * opening.sigmoid()).split(gates, 2)
    for irrep, gate in zip(irreps.gated, opened, strict=True):
        out[irrep] = y[irrep] * gate
    return {k: out[k] for k in irreps.outs}


class ProbeLayer(nn.Module):
    """The same onto probes, for the scalars that the density depends on: see probe_stack.py.

    Args:
        irreps: of what goes in and out.
        radial: makes R(r).
    """

    def __init__(self, irreps: ProbeIrreps, radial: MakeRadial) -> None:
        super().__init__()
        self.irreps = irreps
        self.lin1 = BlockLinear(irreps.read, irreps.read)
        self.radial = radial(irreps.even + irreps.odd)
        self.lin2 = BlockLinear(irreps.summed, irreps.after)
        self.lin3 = BlockLinear({EVEN_SCALAR: irreps.even}, {EVEN_SCALAR: 1})
        self.sc = BlockLinear(irreps.before, irreps.after)

    def forward(self, even: Tensor, odd: Tensor | None, state: Features) -> Features:
        """What follows the sums over neighbours.

        Args:
            even, odd: (P, channels) mid of 0e, and of 0o if that is read.
            state: the probe's scalars {0e, 0o: (P, n)}; none before the first layer.

        Returns:
            Its next scalars.
        """
        maps = self.lin2.matrices()
        receiver = {k: product(state[k], m.t()) for k, m in self.sc.matrices().items()}
        both = torch.cat((maps[EVEN_SCALAR], self.lin3.matrices()[EVEN_SCALAR]), 1)
        new = product(even, both.t())  # F_lin2 and, in the last column, F_lin3
        t = 0.1 * new[:, -1:]
        cos, sin = t.cos(), t.sin()
        # A probe starts at zero, which F_sc takes to zero: the first layer has none.
        y = new[:, :-1] * sin
        if EVEN_SCALAR in receiver:
            y = torch.addcmul(y, cos, receiver[EVEN_SCALAR])
        after = {EVEN_SCALAR: SILU * functional.silu(y)}
        if odd is not None:
            y = odd @ maps[ODD_SCALAR]
            if ODD_SCALAR in receiver:
                y = torch.addcmul(y * sin, cos, receiver[ODD_SCALAR])
            after[ODD_SCALAR] = TANH * y.tanh()
        return after
