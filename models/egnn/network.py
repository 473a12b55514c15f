"""EGNN (Satorras, Hoogeboom and Welling 2021), the QM9 network, with movable points if wanted.

    m_ij = att(silu(L(silu(L[h_i, h_j, e(r_ij)]))))     att(m) = sigmoid(w m + b) m
    h_i += L(silu(L[h_i, sum_j m_ij]))
    y    = L(silu(L(sum_i L(silu(L h_i)))))             one such readout a target

The first layer of m is split: L[h_i, h_j, e] = A h_i + B h_j + C e, two products an atom and one
narrow one a pair, instead of one wide product a pair. The published code also computes padded and
self pairs and multiplies them by zero; here there are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.models.distance import Range, cosine_envelope, encoding
from neupol_cli.models.egnn.messages import Parts, messages, summed_messages
from neupol_cli.models.nn.graph import Edges, Graph, segment_sum
from neupol_cli.models.nn.linear import Linear, product
from neupol_cli.models.property import Backbone, PropertyConfig


@dataclass(frozen=True)
class EGNNConfig(PropertyConfig):
    """EGNN's sizes; the defaults are the published QM9 network.

    Attributes:
        hidden: width H of every feature.
        layers: message passing steps.
        cutoff: Angstrom; None joins all pairs, as published.
        encoding: how a distance enters a message (models/distance.py).
        encoding_size, encoding_bins, encoding_range: its resolution; the range is in Angstrom and
            is the cutoff where there is one.
        charge_power: highest power of Z / charge_scale in an atom's input.
    """

    hidden: int = 128
    layers: int = 7
    cutoff: float | None = None
    encoding: str = "squared"
    encoding_size: int = 32
    encoding_bins: int = 64
    encoding_range: float = 12.0
    charge_power: int = 2
    charge_scale: float = 9.0


class Layer(nn.Module):
    """One step of message passing; where points move it also answers each one's displacement.

    State (P, H) or, with a displacement behind the scalars, (P, H + 3).
    """

    def __init__(self, config: EGNNConfig, has_push: bool) -> None:
        super().__init__()
        hidden = config.hidden
        # The ablation of frozen points keeps the parameters of pi and never reads it.
        self.moves = has_push and config.polarization == "movable"
        scope = Range(
            config.encoding_size, config.cutoff or config.encoding_range, config.encoding_bins
        )
        self.hidden, self.cutoff = hidden, config.cutoff
        self.encoding = encoding(config.encoding, scope)
        self.first = Linear(2 * hidden + int(self.encoding.size), hidden)  # type: ignore[arg-type]
        self.second = Linear(hidden, hidden)
        self.attention = Linear(hidden, 1)
        self.update = nn.Sequential(Linear(2 * hidden, hidden), nn.SiLU(), Linear(hidden, hidden))
        self.push = Push(hidden) if has_push else nn.Identity()

    def forward(self, state: Tensor, edges: Edges) -> Tensor:
        h = state[:, : self.hidden]  # (P, H)
        parts = self._parts(h, edges)
        if self.moves:
            summed, push = self._moved(parts, edges)
        else:
            summed = summed_messages(parts, edges.receivers, edges.senders)
            push = functional.pad(h[:, :0], (0, state.shape[1] - self.hidden))
        return torch.cat((h + self.update(torch.cat((h, summed), 1)), push), 1)

    def _moved(self, parts: Parts, edges: Edges) -> tuple[Tensor, Tensor]:
        """(P, H) summed messages and (P, 3) displacements; only points that can move need phi."""
        points, first = parts.received.shape[0], edges.first_moving
        still, moving = slice(None, first), slice(first, None)
        receivers = edges.receivers[moving]
        m = messages(parts.of(moving), receivers, edges.senders[moving])
        summed = segment_sum(m, receivers, points)
        summed = summed + summed_messages(
            parts.of(still), edges.receivers[still], edges.senders[still]
        )
        return summed, self.push(m, edges.vectors[moving], receivers, points)

    def _parts(self, h: Tensor, edges: Edges) -> Parts:
        """L[h_i, h_j, e] as a product an atom and receiver, one an atom and sender, one a pair."""
        to_receiver, to_sender, to_distance = self.first.weight.split(
            [self.hidden, self.hidden, self.first.in_features - 2 * self.hidden], 1
        )
        inside = None
        if self.cutoff is not None:
            inside = cosine_envelope(edges.lengths, self.cutoff)[:, None]
        return Parts(
            product(h, to_receiver, self.first.bias),
            product(h, to_sender),
            self.encoding(edges),
            to_distance,
            self.second.weight,
            self.second.bias,
            self.attention.weight,
            self.attention.bias,
            inside,
        )


class Push(nn.Module):
    """EGNN's own coordinate update, mean_j (x_i - x_j) phi(m_ij), as pi of Neural Polarization.

    phi has one hidden layer, as the paper says. The mean over j and the small start of phi (xavier,
    gain 0.001) are those of EGNN's published code; the paper on polarization leaves both open.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        last = Linear(128, 1, bias=False)
        nn.init.xavier_uniform_(last.weight, gain=0.001)
        self.phi = nn.Sequential(Linear(hidden, 128), nn.SiLU(), last)

    def forward(self, messages: Tensor, vectors: Tensor, receivers: Tensor, points: int) -> Tensor:
        """(E, H) messages and (E, 3) edges, from receiver to sender, hence the sign -> (P, 3)."""
        pulls = -vectors * self.phi(messages)  # (E, 3)
        number = segment_sum(torch.ones_like(pulls[:, :1]), receivers, points)
        return segment_sum(pulls, receivers, points) / number.clamp(min=1)


class LastThree(nn.Module):
    """Reads the displacement that an EGNN layer keeps behind its scalars."""

    def forward(self, state: Tensor) -> Tensor:
        return state[:, -3:]


class Readout(nn.Module):
    """One target: L(silu(L(sum_i L(silu(L h_i))))).

    The second affine map commutes with the sum, so it is applied to molecules and not to atoms.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.atom = nn.ModuleList((Linear(hidden, hidden), Linear(hidden, hidden)))
        self.molecule = nn.Sequential(Linear(hidden, hidden), nn.SiLU(), Linear(hidden, 1))

    def forward(self, h: Tensor, batch: Tensor, atoms: Tensor) -> Tensor:
        """(A, H) atoms' features and (B, 1) their number in each structure -> (B, 1)."""
        layers: Any = self.atom
        first, second = layers
        pooled = segment_sum(functional.silu(first(h)), batch, atoms.shape[0])
        return self.molecule(product(pooled, second.weight) + atoms * second.bias)


class EGNN(Backbone):
    """The backbone; state ``Hx0e``, or ``Hx0e+1x1o`` where points move."""

    Config = EGNNConfig
    config: EGNNConfig
    charges: Tensor

    def __init__(self, config: EGNNConfig) -> None:
        super().__init__(config)
        moves = config.polarization != "off"
        self.hidden, self.cutoff = config.hidden, config.cutoff
        self.irreps = f"{config.hidden}x0e" + ("+1x1o" if moves else "")
        self.width = config.hidden + (3 if moves else 0)
        powers = config.charge_power + 1
        self.embedding = Linear(config.kinds * len(config.species) * powers, config.hidden)
        last = config.layers - 1
        self.layers = nn.ModuleList(Layer(config, moves and t < last) for t in range(config.layers))
        self.heads = nn.ModuleList(Readout(config.hidden) for _ in config.targets)
        # Whole numbers are exact in every type of float; their quotients are taken when needed.
        charges = torch.tensor(config.species * config.kinds, dtype=torch.get_default_dtype())
        self.register_buffer("charges", charges, persistent=False)

    def embed(self, types: Tensor, edges: Any) -> Tensor:
        """An affine map of one-hot(type) times (1, Z/scale, (Z/scale)^2 ..), a row a type."""
        powers = torch.arange(self.config.charge_power + 1, device=self.charges.device)
        inputs = (self.charges / self.config.charge_scale)[:, None] ** powers  # (types, powers)
        weight = self.embedding.weight.view(self.hidden, *inputs.shape)
        table = (weight * inputs).sum(-1).t() + self.embedding.bias  # (types, H)
        return functional.pad(table, (0, self.width - self.hidden)).index_select(0, types)

    def readout(self, state: Tensor, graph: Graph) -> Tensor:
        h = state[:, : self.hidden]
        atoms = segment_sum(torch.ones_like(h[:, :1]), graph.batch, graph.size)
        return torch.cat([head(h, graph.batch, atoms) for head in self.heads], 1)

    def projection(self) -> nn.Module:
        return LastThree()

    @staticmethod
    def published(
        weights: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> tuple[EGNNConfig, dict[str, Tensor]]:
        """Published weights and arguments -> our configuration and state (backbone's names)."""
        ours = EGNNConfig(
            species=tuple(config.get("species", (1, 6, 7, 8, 9))),
            hidden=config["hidden_nf"],
            layers=config["n_layers"],
            charge_power=config.get("charge_power", 2),
            charge_scale=config.get("charge_scale", 9.0),
        )
        parts = {
            "edge_mlp.0": "first",
            "edge_mlp.2": "second",
            "att_mlp.0": "attention",
            "node_mlp.0": "update.0",
            "node_mlp.2": "update.2",
        }
        names = {"embedding": "embedding"}
        for k in range(ours.layers):
            names |= {f"gcl_{k}.{theirs}": f"layers.{k}.{name}" for theirs, name in parts.items()}
        for place, index in enumerate(("0", "2")):
            names[f"node_dec.{index}"] = f"heads.0.atom.{place}"
            names[f"graph_dec.{index}"] = f"heads.0.molecule.{index}"
        state = {
            f"{name}.{kind}": weights[f"{theirs}.{kind}"]
            for theirs, name in names.items()
            for kind in ("weight", "bias")
        }
        return ours, state
