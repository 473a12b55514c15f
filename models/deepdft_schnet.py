"""The invariant DeepDFT, SchNet's messages with gates on the probes (Jorgensen, Bhowmik 2020).

    ssp(x) = softplus(x) - ln 2,   e_k(r) = exp(-(r - 0.1 k)^2 / (2 0.1^2)),  k dr < r_c
    c(r)   = 1 - sigmoid(5 (r - r_c + 1.5))            5.5e-4 at the cutoff, where the density jumps
    M_i    = sum_j L(ssp(L[s_j, s_i])) * L(ssp(L(e(r_ij)))) c(r_ij)
    atoms:   s += L(ssp(L(M)))
    probes:  g = sigmoid(L(ssp(L(s))));   s = g s + (1 - g) L(ssp(L(M)));   rho = L(ssp(L(s)))

L[s_j, s_i] is split into a product an atom and one a receiver. Probes begin with s = 0, so that
their first messages are functions of the atoms alone, computed an atom and not an edge; their
first gate has nothing but its biases to say, as published.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.models.deepdft import DeepDFT, DeepDFTConfig, Senders, published_common
from neupol_cli.models.graph import Edges, segment_sum
from neupol_cli.models.linear import Linear, product

SOFT = 1.5  # Angstrom before the cutoff, where the envelope is one half
STEEP = 5.0  # 1/Angstrom


@dataclass(frozen=True)
class SchNetDensityConfig(DeepDFTConfig):
    """Settings of the invariant network; the defaults are the published ones.

    Attributes:
        step: Angstrom between the Gaussians, and their width.
    """

    layers: int = 6
    step: float = 0.1


def ssp(x: Tensor) -> Tensor:
    """softplus(x) - ln 2."""
    return functional.softplus(x) - math.log(2)


class Perceptron(nn.Module):
    """L(ssp(L(.)))."""

    def __init__(self, wide: int, hidden: int, out: int) -> None:
        super().__init__()
        self.first = Linear(wide, hidden)
        self.second = Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(ssp(self.first(x)))


class Messages(nn.Module):
    """M of the formula above."""

    def __init__(self, hidden: int, basis: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.node = Perceptron(2 * hidden, 2 * hidden, hidden)
        self.edge = Perceptron(basis, hidden, hidden)

    def forward(self, sent: Tensor, received: Tensor | None, edges: Radial, count: int) -> Tensor:
        """(A, H) senders and (count, H) receivers, None for zeros -> (count, H)."""
        to_sender, to_receiver = self.node.first.weight.split(self.hidden, 1)
        own = product(sent, to_sender, self.node.first.bias)  # (A, 2H)
        if received is None:
            nodes = self.node.second(ssp(own)).index_select(0, edges.senders)
        else:
            other = product(received, to_receiver).index_select(0, edges.receivers)
            nodes = self.node.second(ssp(own.index_select(0, edges.senders) + other))
        return segment_sum(nodes * self.edge(edges.basis) * edges.envelope, edges.receivers, count)


@dataclass(frozen=True)
class Radial:
    """Edges and the functions of their lengths: basis (E, K), envelope (E, 1)."""

    receivers: Tensor
    senders: Tensor
    basis: Tensor
    envelope: Tensor


class ProbeLayer(nn.Module):
    """What a probe keeps, and what it takes over."""

    def __init__(self, hidden: int, basis: int) -> None:
        super().__init__()
        self.messages = Messages(hidden, basis)
        self.gate = Perceptron(hidden, hidden, hidden)
        self.transition = Perceptron(hidden, hidden, hidden)

    def forward(self, sent: Tensor, s: Tensor | None, edges: Radial, count: int) -> Tensor:
        new = self.transition(self.messages(sent, s, edges, count))
        held = sent.new_zeros(1, sent.shape[1]) if s is None else s
        gate = torch.sigmoid(self.gate(held))
        return held * gate + (1 - gate) * new


class AtomLayer(nn.Module):
    """s += L(ssp(L(M)))."""

    def __init__(self, hidden: int, basis: int) -> None:
        super().__init__()
        self.messages = Messages(hidden, basis)
        self.transition = Perceptron(hidden, hidden, hidden)

    def forward(self, s: Tensor, edges: Radial) -> Tensor:
        return s + self.transition(self.messages(s, s, edges, s.shape[0]))


class SchNetDensity(DeepDFT):
    """The network; see the module."""

    Config: ClassVar[type[DeepDFTConfig]] = SchNetDensityConfig

    def __init__(self, config: SchNetDensityConfig) -> None:
        super().__init__(config)
        self.step = config.step
        self.basis_size = math.ceil(config.cutoff / config.step - 1e-9)
        sizes = config.hidden, self.basis_size
        self.atom_layers = nn.ModuleList(AtomLayer(*sizes) for _ in range(config.layers))
        self.probe_layers = nn.ModuleList(ProbeLayer(*sizes) for _ in range(config.layers))

    def radial(self, edges: Edges) -> Radial:
        """What the messages read of the edges' lengths."""
        r = edges.lengths[:, None]
        centres = self.step * torch.arange(self.basis_size, dtype=r.dtype, device=r.device)
        basis = torch.exp(-0.5 * ((r - centres) / self.step).square())
        envelope = 1 - torch.sigmoid(STEEP * (r - (self.config.cutoff - SOFT)))
        return Radial(edges.receivers, edges.senders, basis, envelope)

    def atoms(self, types: Tensor, edges: Edges) -> list[Senders]:
        radial, s, found = self.radial(edges), self.embedding(types), []
        for layer in self.atom_layers:
            s = layer(s, radial)
            found.append(Senders(s))
        return found

    def received(self, layers: list[Senders], edges: Edges, probes: int) -> Tensor:
        radial, s = self.radial(edges), None
        for layer, sent in zip(self.probe_layers, layers, strict=True):
            s = layer(sent.scalars, s, radial, probes)
        return self.readout(ssp(self.before_readout(s))).squeeze(1)

    @staticmethod
    def published(
        weights: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> tuple[SchNetDensityConfig, dict[str, Tensor]]:
        """Published weights and arguments -> our configuration and state."""
        names: dict[str, str] = {}
        for k in range(config["num_interactions"]):
            atom, probe = f"atom_model.interactions.{k}", "probe_model"
            message = "message_function.msg_function"
            parts = {
                f"{atom}.message_sum_module.{message}_edge": f"atom_layers.{k}.messages.edge",
                f"{atom}.message_sum_module.{message}_node": f"atom_layers.{k}.messages.node",
                f"{atom}.state_transition_function": f"atom_layers.{k}.transition",
                f"{probe}.messagesum_layers.{k}.{message}_edge": f"probe_layers.{k}.messages.edge",
                f"{probe}.messagesum_layers.{k}.{message}_node": f"probe_layers.{k}.messages.node",
                f"{probe}.probe_state_gate_functions.{k}": f"probe_layers.{k}.gate",
                f"{probe}.probe_state_transition_functions.{k}": f"probe_layers.{k}.transition",
            }
            for theirs, ours in parts.items():
                names |= {f"{theirs}.0": f"{ours}.first", f"{theirs}.2": f"{ours}.second"}
        fields, state = published_common(weights, config, names)
        return SchNetDensityConfig(**fields, step=config["gaussian_expansion_step"]), state
