"""EGNN with velocities (Satorras, Hoogeboom and Welling 2021, eq. 7): where particles will be.

    e_ij = [q_i q_j, |x_ij(0)|^2]             h_i = L(|v_i|)
    m_ij = silu(L(silu(L[h_i, h_j, |x_ij|^2, e_ij])))
    x_i += mean_j clamp(x_ij phi(m_ij), +-100) + psi(h_i) v_i
    h_i += L(silu(L[h_i, sum_j m_ij]))

The answer is x after the last layer, whose features nobody reads: they are not computed, and their
weights do not exist here. Every system has the same n particles, so pairs are a dense tensor
(receiver, sender, system, feature) without indices, apart from one gather of the senders.

Neural Polarization (Kwak and Jo, eqs. 4-8): every particle gets a movable point that starts on it,
with its charge and velocity and an embedding of its own. The 2n points exchange messages; the
particles stay where they are seen, and the movable points go. Their last place is the answer, as
the paper's readout takes movable points only. pi is the coordinate update that EGNN has already, so
`movable` has the parameters of `off` but for the second embedding. `frozen` sums up the same
displacements for the answer and lets no layer see them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.errors import UsageError
from neupol_cli.models.base import DynamicsModel
from neupol_cli.models.egnn.kernels import nbody_step
from neupol_cli.models.egnn.kernels.nbody_step import Seen, usable
from neupol_cli.models.egnn.pair_messages import Parts, messages_and_pushes
from neupol_cli.models.nn.linear import Linear, Perceptron, product

FARTHEST = 100.0  # of one pair's push; never met in practice, says the published code
# polarization -> (points a particle, whether layers see where the movable ones went)
MODES = {"off": (1, True), "frozen": (2, False), "movable": (2, True)}


@dataclass(frozen=True)
class NBodyConfig:
    """Sizes of the network; the defaults are the published ones.

    Attributes:
        hidden: width H of every feature.
        layers: message passing steps.
        polarization: ``off``, ``frozen`` or ``movable``.
    """

    hidden: int = 64
    layers: int = 4
    polarization: str = "off"


@dataclass(frozen=True)
class Pairs:
    """All ordered pairs of P points whose receiver is point ``first`` or a later one.

    R receivers have P - 1 senders each, in ascending order.

    Attributes:
        senders: (R (P - 1),) indices of points.
        attributes: (R, P - 1, B, 2) q_i q_j and the squared distance that was given.
    """

    first: int
    senders: Tensor
    attributes: Tensor

    @classmethod
    def among(cls, positions: Tensor, charges: Tensor) -> Pairs:
        """The pairs of points at (P, B, 3) with charges (P, B)."""
        points = positions.shape[0]
        every = torch.arange(points, device=positions.device).expand(points, points)
        apart = ~torch.eye(points, dtype=torch.bool, device=positions.device)
        senders = every[apart]
        given = cls(0, senders, positions)
        squared = given.vectors(positions).square().sum(-1)  # (P, P - 1, B)
        return cls(0, senders, torch.stack((given.join(charges).prod(0), squared), -1))

    def join(self, values: Tensor) -> Tensor:
        """(P, ...) -> (2, R, P - 1, ...): the receiver's value and the sender's."""
        sent = self.sent(values)
        return torch.stack((values[self.first :, None].expand_as(sent), sent))

    def sent(self, values: Tensor) -> Tensor:
        """(P, ...) -> (R, P - 1, ...), what each sender has."""
        points = values.shape[0]
        return values.index_select(0, self.senders).unflatten(0, (-1, points - 1))

    def vectors(self, positions: Tensor) -> Tensor:
        """(P, B, 3) -> (R, P - 1, B, 3) from sender to receiver."""
        return positions[self.first :, None] - self.sent(positions)

    def tail(self, first: int) -> Pairs:
        """Those whose receiver is point ``first`` or a later one; for pairs that begin at 0."""
        each = self.attributes.shape[1]
        return Pairs(first, self.senders[first * each :], self.attributes[first:])


class Layer(nn.Module):
    """One step: how far points go, and, but for the last layer, their new features."""

    def __init__(self, hidden: int, last: bool) -> None:
        super().__init__()
        self.hidden = hidden
        self.message = Perceptron(2 * hidden + 3, hidden, hidden)
        self.push = Perceptron(hidden, hidden, 1, bias=False)
        nn.init.xavier_uniform_(self.push.second.weight, gain=0.001)
        self.drift = Perceptron(hidden, hidden, 1)
        self.update = None if last else Perceptron(2 * hidden, hidden, hidden)

    def forward(
        self, h: Tensor, vectors: Tensor, velocities: Tensor, pairs: Pairs, fixed: int
    ) -> tuple[Tensor, Tensor]:
        """One step, of PyTorch's operations; `nbody_step.step` is the same in one.

        Args:
            h: (P, B, H) features.
            vectors: (R, P - 1, B, 3) from senders to receivers.
            velocities: (P - fixed, B, 3) of the points that go.
            pairs: who sees whom.
            fixed: so many points come before those that go.

        Returns:
            (P - fixed, B, 3) displacements, (P, B, H) features (of the last layer: as they were).
        """
        size, update = self.hidden, self.update
        to_receiver, to_sender, to_pair = self.message.first.weight.split([size, size, 3], 1)
        # L[h_i, h_j, d] = A h_i + B h_j + C d. All maps of h alone are one product.
        maps = [(to_receiver, self.message.first.bias), _pair(self.drift.first)]
        if update is not None:
            own, of_sum = update.first.weight.split(size, 1)
            maps.append((own, update.first.bias))
        received, drifting, *rest, sent = _mapped(
            h, [*maps, (to_sender, torch.zeros_like(h[0, 0]))]
        )
        parts = Parts(
            received[pairs.first :] if pairs.first else received,
            sent,
            vectors.square().sum(-1, keepdim=True),
            pairs.attributes,
            to_pair,
            *_pair(self.message.second),
            *_pair(self.push.first),
            self.push.second.weight,
        )
        go = fixed - pairs.first
        summed, phi = messages_and_pushes(parts, pairs.senders, go)
        pushes = (vectors[go:] * phi).clamp(-FARTHEST, FARTHEST).mean(1)
        moved = pushes + self.drift.second(functional.silu(drifting[fixed:])) * velocities
        if update is None:
            return moved, h
        inner = functional.silu(rest[0] + product(summed, of_sum))
        return moved, h + update.second(inner)

    def weights(self) -> list[Tensor]:
        """In the order of `nbody_step.step`."""
        affine = [self.message.first, self.message.second, self.push.first]
        after = [self.drift.first, self.drift.second]
        if self.update is not None:
            after += [self.update.first, self.update.second]
        before, rest = (
            [each for linear in maps for each in _pair(linear)] for maps in (affine, after)
        )
        return [*before, self.push.second.weight, *rest]


def _pair(linear: Linear) -> tuple[Tensor, Tensor]:
    return linear.weight, linear.bias


def _mapped(h: Tensor, maps: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
    """Several affine maps (weight, bias) of the same h, in one product."""
    weights, biases = (torch.cat(each) for each in zip(*maps, strict=True))
    return product(h, weights, biases).split(maps[0][0].shape[0], -1)


# (layer, features (P, B, H), positions as it sees them (P, B, 3)) -> displacements, features
Step = Callable[[Layer, Tensor, Tensor], tuple[Tensor, Tensor]]


def composed(seen: Seen, fixed: int) -> Step:
    """A layer's step in PyTorch's operations; the last layer's receivers are those that go."""
    pairs = Pairs.among(seen.start, seen.charges)
    to_going = pairs.tail(fixed)

    def step(layer: Layer, h: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        chosen = to_going if layer.update is None else pairs
        moved, h = layer(h, chosen.vectors(now), seen.velocities, chosen, fixed)
        return moved, h

    return step


def compiled(seen: Seen, fixed: int) -> Step:
    """The same as one compiled operation a layer."""

    def step(layer: Layer, h: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        first = fixed if layer.update is None else 0
        return nbody_step.step(h, now, seen, layer.weights(), first, fixed)

    return step


class EGNNDynamics(DynamicsModel):
    """Charged particles in, their positions some time later out; any unit, the data's."""

    Config = NBodyConfig
    config: NBodyConfig

    def __init__(self, config: NBodyConfig) -> None:
        super().__init__()
        if config.polarization not in MODES:
            known = ", ".join(MODES)
            raise UsageError(f"polarization is one of {known}, not {config.polarization!r}")
        self.config = config
        kinds, self.moves = MODES[config.polarization]
        self.embeddings = nn.ModuleList(Linear(1, config.hidden) for _ in range(kinds))
        last = config.layers - 1
        self.layers = nn.ModuleList(Layer(config.hidden, t == last) for t in range(config.layers))

    def forward(self, positions: Tensor, velocities: Tensor, charges: Tensor) -> Tensor:
        """Where the particles will be.

        Args:
            positions, velocities: (B, n, 3).
            charges: (B, n).

        Returns:
            (B, n, 3).
        """
        return self.path(positions, velocities, charges)[-1].transpose(0, 1)

    def path(self, positions: Tensor, velocities: Tensor, charges: Tensor) -> list[Tensor]:
        """The answer as it stands before the first and after each layer, each (n, B, 3)."""
        kinds = len(self.embeddings)
        x, v, q = (each.transpose(0, 1).contiguous() for each in (positions, velocities, charges))
        speeds = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
        h = torch.cat([embedding(speeds) for embedding in self.embeddings])  # (kinds n, B, H)
        fixed = (kinds - 1) * x.shape[0]  # so many points come before those that go
        seen = Seen(torch.cat([x] * kinds), torch.cat([q] * kinds), v)
        step = compiled if usable(seen, self.config.hidden) else composed
        take = step(seen, fixed)
        path, now = [x], seen.start
        for layer in cast(Iterable[Layer], self.layers):
            moved, h = take(layer, h, now)
            path.append(path[-1] + moved)
            if self.moves:
                now = torch.cat((x, path[-1])) if fixed else path[-1]
        return path

    @staticmethod
    def published(
        weights: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> tuple[NBodyConfig, dict[str, Tensor]]:
        """Published weights and arguments -> our configuration and state."""
        ours = NBodyConfig(hidden=config["hidden_nf"], layers=config["n_layers"])
        parts = {
            "edge_mlp.0": "message.first",
            "edge_mlp.2": "message.second",
            "coord_mlp.0": "push.first",
            "coord_mlp.2": "push.second",
            "coord_mlp_vel.0": "drift.first",
            "coord_mlp_vel.2": "drift.second",
            "node_mlp.0": "update.first",
            "node_mlp.2": "update.second",
        }
        names = {"embedding": "embeddings.0"}
        for k in range(ours.layers):
            for theirs, name in parts.items():
                if not (name.startswith("update") and k + 1 == ours.layers):
                    names[f"gcl_{k}.{theirs}"] = f"layers.{k}.{name}"
        without_bias = {theirs for theirs in names if theirs.endswith("coord_mlp.2")}
        state = {
            f"{name}.{kind}": weights[f"{theirs}.{kind}"]
            for theirs, name in names.items()
            for kind in ("weight", "bias")
            if not (kind == "bias" and theirs in without_bias)
        }
        return ours, state
