"""Equivariant parts over features of even parity: linear maps, gate, layer norm, feed-forward.

A state is flat, in e3nn's layout [mul, 2l + 1] with l = 0..lmax ascending. In between, features are
a list, one tensor (P, 2l + 1, mul) a degree: every step is then contiguous over the channels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.errors import UsageError
from neupol_cli.models.nn.activation import SIGMOID, SILU
from neupol_cli.models.nn.linear import product
from neupol_cli.models.nn.wigner import LMAX

Muls = tuple[int, ...]
MOST = 4096  # copies of an irrep
EPSILON = 1e-5  # published, beside the mean squares of a layer normalisation


def multiplicities(irreps: str) -> Muls:
    """``"128x0e+64x1e"`` -> (128, 64): how many copies of l = 0, 1, ...

    Raises:
        UsageError: not a list of even irreps with l = 0, 1, ... in this order, or too many.
    """
    terms = [re.fullmatch(r"\s*(\d{1,9})x(\d)e\s*", term) for term in irreps.split("+")]
    pairs = [(int(term[1]), int(term[2])) for term in terms if term]
    if len(pairs) != len(terms) or [degree for _, degree in pairs] != list(range(len(pairs))):
        raise UsageError(f"irreps are written like 128x0e+64x1e+32x2e, l ascending; not {irreps!r}")
    if len(pairs) > LMAX + 1 or not all(0 < mul <= MOST for mul, _ in pairs):
        raise UsageError(f"irreps have 1 to {MOST} copies, and l up to {LMAX}; not {irreps!r}")
    return tuple(mul for mul, _ in pairs)


def unpacked(state: Tensor, muls: Muls) -> list[Tensor]:
    """(P, dim) in e3nn's layout -> one (P, 2l + 1, mul) a degree."""
    blocks = state.split([mul * (2 * degree + 1) for degree, mul in enumerate(muls)], 1)
    return [
        block.unflatten(1, (mul, 2 * degree + 1)).transpose(1, 2)
        for degree, (block, mul) in enumerate(zip(blocks, muls, strict=True))
    ]


def packed(features: Sequence[Tensor]) -> Tensor:
    """The inverse of :func:`unpacked`."""
    return torch.cat([part.transpose(1, 2).flatten(1) for part in features], 1)


class EquivariantLinear(nn.Module):
    """One matrix a degree, out_l = W_l in_l, and a bias on l = 0.

    Weights (out, in) start as N(0, 1/in) and biases as 0 (Equiformer's published LinearRS).
    Outputs whose degree has no input stay out of the result. ``fans`` are the numbers of inputs of
    the published map, where ours leaves out those that are always zero.
    """

    def __init__(self, ins: Muls, outs: Muls, bias: bool = True, fans: Muls | None = None) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            torch.randn(out, width) * fan_in**-0.5
            for width, fan_in, out in zip(ins, fans or ins, outs, strict=False)
        )
        self.bias = nn.Parameter(torch.zeros(outs[0])) if bias else None

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """(P, 2l + 1, in) a degree -> (P, 2l + 1, out) a degree; spare inputs are not read."""
        return [
            product(part, weight, self.bias if degree == 0 else None)
            for degree, (part, weight) in enumerate(zip(features, self.weights, strict=False))
        ]


def gate_inputs(muls: Muls) -> Muls:
    """What a gate reads: l = 0 carries the scalars, then a gate for every channel of l > 0."""
    return (sum(muls), *muls[1:])


def gated(features: Sequence[Tensor], muls: Muls) -> list[Tensor]:
    """silu on the scalars, a sigmoid gate on every channel of l > 0 (e3nn's Gate).

    Args:
        features: (P, 2l + 1, mul) with the multiplicities of :func:`gate_inputs`.
        muls: those of the result.
    """
    scalars, *gates = features[0].split(muls, 2)
    return [SILU * functional.silu(scalars)] + [
        part * (SIGMOID * torch.sigmoid(gate))
        for part, gate in zip(features[1:], gates, strict=True)
    ]


class EquivariantLayerNorm(nn.Module):
    """Layer normalisation of each degree (Liao and Smidt 2023, section 4.1, as published).

    l = 0 loses its mean over channels; each l is divided by its root mean square over channels and
    components, then scaled by a weight a channel; l = 0 gains a bias.

    Where an atom's surroundings are symmetric some l > 0 vanish, and divided by their own size they
    appear within 1e-4 Angstrom: a step, for energies. ``epsilon`` is what is added to their mean
    squares; published 1e-5.
    """

    decays = False

    def __init__(self, muls: Muls, epsilon: float) -> None:
        super().__init__()
        self.epsilons = (EPSILON, *(epsilon for _ in muls[1:]))
        self.weights = nn.ParameterList(torch.ones(mul) for mul in muls)
        self.bias = nn.Parameter(torch.zeros(muls[0]))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """(P, 2l + 1, mul) a degree -> the same; degrees without a weight are not read."""
        scalars = features[0]
        centred = [scalars - scalars.mean(2, keepdim=True), *features[1:]]
        scaled = [
            part * (part.square().mean((1, 2), keepdim=True) + epsilon).rsqrt() * weight
            for part, weight, epsilon in zip(centred, self.weights, self.epsilons, strict=False)
        ]
        return [scaled[0] + self.bias, *scaled[1:]]


class FeedForward(nn.Module):
    """Lin Gate(Lin x) from one set of irreps to another, without what the latter does not read."""

    def __init__(self, muls: Muls, hidden: Muls, outs: Muls) -> None:
        super().__init__()
        self.hidden = hidden[: len(outs)]
        self.first = EquivariantLinear(muls[: len(outs)], gate_inputs(self.hidden))
        self.second = EquivariantLinear(self.hidden, outs)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return self.second(gated(self.first(features), self.hidden))


def add(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    """a + b, degree by degree."""
    return [x + y for x, y in zip(a, b, strict=True)]
