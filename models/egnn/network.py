"""EGNN (Satorras, Hoogeboom and Welling 2021), the QM9 network, with movable points if wanted.

    f_i  = one-hot(Z_i) x (1, Z_i/scale, (Z_i/scale)^2)
    h    = L(f)                                         EGNN.embed
    m_ij = silu(L(silu(L[h_i, h_j, e(r_ij)])))          phi_e, messages.py; published: e(r) = r^2
    m_ij = sigmoid(w m_ij + b) m_ij                     attention; C(r_ij) m_ij with a cutoff
    h_i += L(silu(L[h_i, sum_j m_ij]))                  phi_h, Layer
    g_i  = L(silu(L h_i))                               one readout g, y a target
    y    = L(silu(L(sum_i g_i)))                        a number, Readout

Molecules' coordinates stay where they are. Movable points (Neural Polarization) go by EGNN's own
coordinate update in every layer but the last:

    x_i += mean_j (x_i - x_j) phi_x(m_ij)               phi_x = w . silu(L m), CoordinateUpdate
    y    = sum_i phi(h_i) (x~_i - x_i)                  a vector, VectorReadout

phi_e stands in messages.py; kernels/choice.py says what sums it. The published code also computes
padded and self pairs and multiplies them by zero; here there are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.models.base import Arguments, Backbone, PropertyConfig
from neupol_cli.models.distance import RadialBasisConfig, cosine_envelope, encoding
from neupol_cli.models.egnn.config import EGNNConfig
from neupol_cli.models.egnn.kernels.choice import Kernels, kernels
from neupol_cli.models.egnn.messages import MessageInputs, PushInputs
from neupol_cli.models.egnn.published import published_egnn
from neupol_cli.models.nn.graph import Edges, Graph, segment_sum
from neupol_cli.models.nn.linear import Linear, Perceptron, product
from neupol_cli.models.streaming import forces_are_learnt


def state_widths(config: EGNNConfig) -> list[int]:
    """What a point's state is made of.

    Returns:
        H of the features; where there are movable points, 3 of how far the last step went; between
        the two, where a vector is read out, 3 of how far the point is from its atom.
    """
    steps = [] if config.polarization == "off" else [3]
    return [config.hidden, *([3] if "vector" in config.outputs else []), *steps]


class Layer(nn.Module):
    """One step of message passing; where points move it also answers each one's displacement.

    State (P, H) or, with this step's displacement behind the scalars, (P, H + 3), or (P, H + 6)
    with how far the point is from its atom in between, where a vector is read out of it. The names
    of its parts are those of checkpoints: ``first``, ``second`` and ``attention`` make phi_e,
    ``update`` is phi_h and ``push`` phi_x.
    """

    def __init__(self, config: EGNNConfig, has_phi_x: bool) -> None:
        super().__init__()
        hidden = config.hidden
        # The ablation of frozen points keeps the parameters of pi and never reads it.
        self.moves = has_phi_x and config.polarization == "movable"
        self.widths = state_widths(config)
        basis = RadialBasisConfig.of(config, config.cutoff or config.encoding_range)
        self.hidden, self.cutoff = hidden, config.cutoff
        self.encoding = encoding(config.encoding, basis)
        self.first = Linear(2 * hidden + int(self.encoding.size), hidden)  # type: ignore[arg-type]
        self.second = Linear(hidden, hidden)
        self.attention = Linear(hidden, 1)
        self.update = nn.Sequential(Linear(2 * hidden, hidden), nn.SiLU(), Linear(hidden, hidden))
        self.push = CoordinateUpdate(hidden) if has_phi_x else nn.Identity()

    def forward(self, state: Tensor, edges: Edges) -> Tensor:
        """(P, dim) -> (R, dim) after phi_e, phi_h and, where it moves, phi_x, of points R that
        somebody reads."""
        h, *offsets = state.split(self.widths, 1)
        inputs = self.message_inputs(h, edges)
        by = kernels(h, self.hidden, forces_are_learnt())
        if self.moves:
            summed, displacements = self.sum_and_displacements(inputs, edges, by)
        else:
            summed = by.summed_messages(inputs, edges.receivers, edges.senders)
            displacements = torch.zeros_like(offsets[-1]) if offsets else h[:, :0]
        read = slice(edges.first_receiver, None)
        h, displacements = h[read], displacements[read]
        h = h + self.phi_h(torch.cat((h, summed[read]), 1))
        # x~ - x, where it is kept
        travelled = [offset[read] + displacements for offset in offsets[:-1]]
        return torch.cat((h, *travelled, displacements), 1)

    def phi_h(self, h_and_sum: Tensor) -> Tensor:
        """(P, 2 H) [h_i, sum_j m_ij] -> (P, H)."""
        return self.update(h_and_sum)

    def sum_and_displacements(
        self, p: MessageInputs, edges: Edges, by: Kernels
    ) -> tuple[Tensor, Tensor]:
        """(P, H) sum_j m_ij and (P, 3) displacements; only points that can move need phi_x."""
        points, first = p.received.shape[0], edges.first_moving
        to_atoms, to_moving = slice(None, first), slice(first, None)
        receivers = edges.receivers[to_moving]
        push = cast(CoordinateUpdate, self.push)
        summed, phi = by.sums_and_pushes(
            p.select(to_moving), push.inputs(), receivers, edges.senders[to_moving]
        )
        summed = summed + by.summed_messages(
            p.select(to_atoms), edges.receivers[to_atoms], edges.senders[to_atoms]
        )
        return summed, push(phi, edges.vectors[to_moving], receivers, points)

    def message_inputs(self, h: Tensor, edges: Edges) -> MessageInputs:
        """What phi_e reads of h (P, H), of the edges' lengths, and of its weights."""
        to_receiver, to_sender, to_distance = self.first.weight.split(
            [self.hidden, self.hidden, self.first.in_features - 2 * self.hidden], 1
        )
        envelope = None
        if self.cutoff is not None:
            envelope = cosine_envelope(edges.lengths, self.cutoff)[:, None]
        return MessageInputs(
            product(h, to_receiver, self.first.bias),
            product(h, to_sender),
            self.encoding(edges),
            to_distance,
            self.second.weight,
            self.second.bias,
            self.attention.weight,
            self.attention.bias,
            envelope,
        )


class CoordinateUpdate(nn.Module):
    """EGNN's own coordinate update, mean_j (x_i - x_j) phi_x(m_ij), as pi of Neural Polarization.

    phi_x has one hidden layer, as the paper says. The mean over j and the small start of phi_x
    (xavier, gain 0.001) are those of EGNN's published code; the paper on polarization leaves both
    open.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        last = Linear(128, 1, bias=False)
        nn.init.xavier_uniform_(last.weight, gain=0.001)
        self.phi = nn.Sequential(Linear(hidden, 128), nn.SiLU(), last)  # phi_x

    def inputs(self) -> PushInputs:
        """The weights of phi_x."""
        first, last = cast(Linear, self.phi[0]), cast(Linear, self.phi[2])
        return PushInputs(first.weight, first.bias, last.weight)

    def forward(self, phi: Tensor, vectors: Tensor, receivers: Tensor, points: int) -> Tensor:
        """Where points go.

        Args:
            phi: (E, 1) phi_x(m_ij).
            vectors: (E, 3) x_j - x_i, from receiver to sender, hence the sign.
            receivers: (E,).
            points: P.

        Returns:
            (P, 3).
        """
        weighted = -vectors * phi  # (E, 3)
        number = segment_sum(torch.ones_like(phi), receivers, points)
        return segment_sum(weighted, receivers, points) / number.clamp(min=1)


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

    def forward(self, state: Sequence[Tensor], graph: Graph) -> Tensor:
        """(A, H) atoms' features, and what else there is of their state -> (B, 1)."""
        second = cast(Linear, self.atom[1])
        pooled = segment_sum(functional.silu(self.atom[0](state[0])), graph.batch, graph.size)
        atoms = graph.counts[:, None].to(pooled)
        summed = product(pooled, second.weight) + atoms * second.bias  # (B, H) sum_i g_i
        return self.molecule(summed)


class VectorReadout(nn.Module):
    """One vector, sum_i phi(h_i) (x~_i - x_i) with phi(h) = w . silu(L h) + b.

    EGNN's only vectors are differences of positions. A molecule's own would be those of all pairs;
    a movable point's from its atom is one an atom, and neither turns nor shifts the wrong way. That
    we read it out, and so, is a choice of ours: the papers answer with numbers.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.phi = Perceptron(hidden, hidden, 1)

    def forward(self, state: Sequence[Tensor], graph: Graph) -> Tensor:
        """(A, H) atoms' features, (A, 3) x~ - x, and what the last layer added -> (B, 3)."""
        h, offset, *_ = state
        return segment_sum(self.phi(h) * offset, graph.batch, graph.size)


HEADS: dict[str, type[nn.Module]] = {"scalar": Readout, "vector": VectorReadout}


class EGNN(Backbone):
    """The backbone; state ``Hx0e``, ``Hx0e+1x1o`` where points move, ``Hx0e+2x1o`` for vectors."""

    Config = EGNNConfig
    by_element: ClassVar[Mapping[str, int]] = {"embedding.weight": 1}
    config: EGNNConfig
    charges: Tensor

    @classmethod
    def known_readouts(cls, config: PropertyConfig) -> tuple[str, ...]:
        """Only points that have left their atoms make vectors."""
        return ("scalar", "vector") if config.polarization == "movable" else ("scalar",)

    def __init__(self, config: EGNNConfig) -> None:
        super().__init__(config)
        moves = config.polarization != "off"
        self.hidden, self.cutoff = config.hidden, config.cutoff
        self.widths = state_widths(config)
        offsets = len(self.widths) - 1
        self.irreps = f"{config.hidden}x0e" + (f"+{offsets}x1o" if offsets else "")
        powers = config.charge_power + 1
        self.embedding = Linear(
            config.points_per_atom * len(config.species) * powers, config.hidden
        )
        last = config.layers - 1
        self.layers = nn.ModuleList(Layer(config, moves and t < last) for t in range(config.layers))
        self.heads = nn.ModuleList(HEADS[name](config.hidden) for name in self.readouts)
        # Whole numbers are exact in every type of float; their quotients are taken when needed.
        charges = torch.tensor(
            config.species * config.points_per_atom, dtype=torch.get_default_dtype()
        )
        self.register_buffer("charges", charges, persistent=False)

    def embed(self, types: Tensor, edges: Edges) -> Tensor:
        """An affine map of one-hot(type) times (1, Z/scale, (Z/scale)^2 ..), a row a type."""
        powers = torch.arange(self.config.charge_power + 1, device=self.charges.device)
        inputs = (self.charges / self.config.charge_scale)[:, None] ** powers  # (types, powers)
        weight = self.embedding.weight.view(self.hidden, *inputs.shape)
        table = (weight * inputs).sum(-1).t() + self.embedding.bias  # (types, H)
        return functional.pad(table, (0, sum(self.widths[1:]))).index_select(0, types)

    def readout(self, state: Tensor, graph: Graph) -> Tensor:
        pieces = state.split(self.widths, 1)
        return torch.cat([head(pieces, graph) for head in self.heads], 1)

    def projection(self) -> nn.Module:
        return LastThree()

    @staticmethod
    def published(
        weights: Mapping[str, Tensor], config: Arguments
    ) -> tuple[EGNNConfig, dict[str, Tensor]]:
        """Published weights and arguments -> our configuration and state (backbone's names)."""
        return published_egnn(weights, config)
