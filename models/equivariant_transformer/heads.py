"""What the equivariant transformer's last state answers (Tholke and de Fabritiis 2022, section 3).

    scalar   y = sum_i q_i
    vector   y = sum_i q_i (x_i - c) + u_i            a dipole, whatever the charges' sum
    dipole   y = |sum_i q_i (x_i - c) + u_i|          its length
    extent   y = sum_i q_i |x_i - c|^2

c is the centre of mass (nn/dipole.py). q_i and the vectors u_i are two gated equivariant blocks of
s_i and V_i (Schutt et al. 2021); the extent's q_i = L(silu(L(s_i))). As TorchMD-NET's output
modules have it; with Neural Polarization, states are the movable points' and x_i is where their
atoms are.

Where an atom's surroundings are symmetric its vectors vanish, and their lengths have a kink there,
and energies with them. Only of networks without softening, as published, lengths are what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.models.nn.dipole import arms, dipole
from neupol_cli.models.nn.graph import Graph, segment_sum
from neupol_cli.models.nn.linear import Linear, Perceptron

SOFT = 0.1  # lengths of features are of the order of one


class HeadConfig(Protocol):
    """What heads read of a network's settings: its width, and whether lengths are smooth."""

    @property
    def hidden(self) -> int: ...
    @property
    def softening(self) -> float: ...


class Gated(nn.Module):
    """A gated equivariant block (Schutt et al. 2021, fig. 3); without ``vectors`` scalars only.

    (s, g) = L(silu(L[s, |W V|])),   V = g W' V

    Softened, |v| is (v^2 + SOFT^2)^1/2 - SOFT.
    """

    def __init__(self, hidden: int, out: int, vectors: bool, softened: bool) -> None:
        super().__init__()
        self.out = out
        self.length = soft_norm if softened else norm
        self.lengths = xavier(Linear(hidden, hidden, bias=False))
        self.vectors = xavier(Linear(hidden, out, bias=False)) if vectors else None
        blocks = (2, 2) if vectors else (2,)
        self.update = nn.Sequential(
            xavier(Linear(2 * hidden, hidden)),
            nn.SiLU(),
            xavier(Linear(hidden, len(blocks) * out), blocks),
        )

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(P, hidden), (P, 3, hidden) -> (P, out), (P, 3, out); no vectors: (P, 3, 0)."""
        s, *gate = self.update(torch.cat((s, self.length(self.lengths(v))), 1)).split(self.out, 1)
        return s, v[:, :, :0] if self.vectors is None else self.vectors(v) * gate[0][:, None]


class ScalarHead(nn.Module):
    """One target: two gated blocks, H -> H/2 -> 1, summed over a structure."""

    vectors = False

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        half, softened = config.hidden // 2, config.softening > 0
        self.first = Gated(config.hidden, half, True, softened)
        self.second = Gated(half, 1, self.vectors, softened)

    def blocks(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(A, H), (A, 3, H) -> q (A, 1), u (A, 3, 1) or (A, 3, 0)."""
        s, v = self.first(s, v)
        return self.second(functional.silu(s), v)

    def forward(self, s: Tensor, v: Tensor, graph: Graph) -> Tensor:
        """(A, H), (A, 3, H) -> (B, 1)."""
        return segment_sum(self.blocks(s, v)[0], graph.batch, graph.size)


class VectorHead(ScalarHead):
    """The sum of charges times arms and of atoms' own dipoles."""

    vectors = True

    def forward(self, s: Tensor, v: Tensor, graph: Graph) -> Tensor:
        """(A, H), (A, 3, H) -> (B, 3)."""
        charges, own = self.blocks(s, v)
        return dipole(charges, own[:, :, 0], graph)


class DipoleHead(VectorHead):
    """The length of that vector."""

    def forward(self, s: Tensor, v: Tensor, graph: Graph) -> Tensor:
        """(A, H), (A, 3, H) -> (B, 1)."""
        return norm(super().forward(s, v, graph)[:, :, None])


class ExtentHead(nn.Module):
    """Charges times squared arms."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.charges = Perceptron(config.hidden, config.hidden // 2, 1)
        for linear in (self.charges.first, self.charges.second):
            xavier(linear)

    def forward(self, s: Tensor, v: Tensor, graph: Graph) -> Tensor:
        """(A, H) and (A, 3, H), which is not read, -> (B, 1)."""
        squared = arms(graph).square().sum(1, keepdim=True)
        return segment_sum(self.charges(s) * squared, graph.batch, graph.size)


HEADS: dict[str, type[ScalarHead] | type[ExtentHead]] = {
    "scalar": ScalarHead,
    "vector": VectorHead,
    "dipole": DipoleHead,
    "extent": ExtentHead,
}


def norm(v: Tensor) -> Tensor:
    """(P, 3, H) -> (P, H) lengths; their gradient is zero at zero vectors."""
    squared = v.square().sum(1)
    apart = squared > 0
    return torch.where(apart, squared, 1.0).sqrt() * apart


def soft_norm(v: Tensor) -> Tensor:
    """(P, 3, H) -> (P, H) lengths, smooth at zero vectors."""
    return (v.square().sum(1) + SOFT**2).sqrt() - SOFT


def xavier(linear: Linear, shares: Sequence[int] = (1,)) -> Linear:
    """Xavier uniform weights and zero biases, as published.

    The range depends on the height of the layer. Where the published code has several layers and
    we have one, or where we have a part of one, ``shares`` lists our blocks of equal height: of how
    many such blocks the published layer of each is made.
    """
    height = linear.out_features // len(shares)
    with torch.no_grad():
        if linear.bias is not None:
            linear.bias.zero_()
        for k, share in enumerate(shares):
            bound = (6 / (linear.in_features + share * height)) ** 0.5
            linear.weight[k * height : (k + 1) * height].uniform_(-bound, bound)
    return linear
