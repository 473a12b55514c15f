"""EGNN with velocities (Satorras, Hoogeboom and Welling 2021, eq. 7): where particles will be.

    e_ij  = [q_i q_j, |x_ij(0)|^2]                       h_i = L(|v_i|)
    m_ij  = silu(L(silu(L[h_i, h_j, |x_ij|^2, e_ij])))   phi_e
    x_i  += mean_j clamp(x_ij phi_x(m_ij), +-100) + phi_v(h_i) v_i
            phi_x = w . silu(L m),   phi_v = L(silu(L h)),   v as it was given
    h_i  += L(silu(L[h_i, sum_j m_ij]))                  phi_h; reads the old h, and so does x

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
from neupol_cli.models.egnn.config import NBodyConfig
from neupol_cli.models.egnn.kernels import nbody_step, pair_messages
from neupol_cli.models.egnn.kernels.nbody_step import Seen
from neupol_cli.models.egnn.published import published_nbody
from neupol_cli.models.kernels import compiler as kernels
from neupol_cli.models.nn.linear import Linear, Perceptron

FARTHEST = 100.0  # of one pair's x_ij phi_x; never met in practice, says the published code
# polarization -> (points a particle, whether layers see where the movable ones went)
MODES = {"off": (1, True), "frozen": (2, False), "movable": (2, True)}


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
        all_senders = torch.arange(points, device=positions.device).expand(points, points)
        apart = ~torch.eye(points, dtype=torch.bool, device=positions.device)
        senders = all_senders[apart]
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
        senders = self.attributes.shape[1]
        return Pairs(first, self.senders[first * senders :], self.attributes[first:])


class Layer(nn.Module):
    """One step: how far points go, and, but for the last layer, their new features.

    The names of its parts are those of checkpoints: ``message`` is phi_e, ``push`` phi_x, ``drift``
    phi_v and ``update`` phi_h.
    """

    def __init__(self, hidden: int, last: bool) -> None:
        super().__init__()
        self.message = Perceptron(2 * hidden + 3, hidden, hidden)
        self.push = Perceptron(hidden, hidden, 1, bias=False)
        nn.init.xavier_uniform_(self.push.second.weight, gain=0.001)
        self.drift = Perceptron(hidden, hidden, 1)
        self.update = None if last else Perceptron(2 * hidden, hidden, hidden)

    def forward(
        self, h: Tensor, x: Tensor, velocities: Tensor, pairs: Pairs, fixed: int
    ) -> tuple[Tensor, Tensor]:
        """One step, as the paper has it.

        Args:
            h: (P, B, H) features.
            x: (P, B, 3) positions.
            velocities: (P - fixed, B, 3) of the points that go.
            pairs: who sees whom; R receivers.
            fixed: so many points come before those that go.

        Returns:
            (P - fixed, B, 3) displacements, (P, B, H) features (of the last layer: as they were).
        """
        x_ij = pairs.vectors(x)  # (R, P - 1, B, 3)
        going = fixed - pairs.first
        summed, phi_x = messages_and_phi_x(self, h, x_ij, pairs, going)
        weighted = (x_ij[going:] * phi_x).clamp(-FARTHEST, FARTHEST)
        displacements = weighted.mean(1) + self.phi_v(h[fixed:]) * velocities
        return displacements, self.phi_h(h, summed)

    def phi_e(self, h: Tensor, x_ij: Tensor, pairs: Pairs) -> Tensor:
        """(P, B, H), (R, P - 1, B, 3) -> (R, P - 1, B, H) messages."""
        h_i, h_j = pairs.join(h)
        squared = x_ij.square().sum(-1, keepdim=True)
        m = self.message(torch.cat((h_i, h_j, squared, pairs.attributes), -1))
        return functional.silu(m)

    def phi_x(self, m: Tensor) -> Tensor:
        """(..., H) messages -> (..., 1)."""
        return cast(Tensor, self.push(m))

    def phi_v(self, h: Tensor) -> Tensor:
        """(..., H) features -> (..., 1)."""
        return cast(Tensor, self.drift(h))

    def phi_h(self, h: Tensor, summed: Tensor) -> Tensor:
        """(P, B, H) features and sum_j m_ij -> features; the last layer has none."""
        return h if self.update is None else h + self.update(torch.cat((h, summed), -1))


def plain_messages(
    layer: Layer, h: Tensor, x_ij: Tensor, pairs: Pairs, going: int
) -> tuple[Tensor, Tensor]:
    """(R, B, H) sum_j m_ij, and (R - going, P - 1, B, 1) phi_x of the receivers that go."""
    m = layer.phi_e(h, x_ij, pairs)
    return m.sum(1), layer.phi_x(m[going:])


def messages_and_phi_x(
    layer: Layer, h: Tensor, x_ij: Tensor, pairs: Pairs, going: int
) -> tuple[Tensor, Tensor]:
    """The same, by a kernel of PyTorch's operations unless kernels are switched off."""
    if not kernels.enabled():
        return plain_messages(layer, h, x_ij, pairs, going)
    inputs = pair_messages.pair_inputs(
        h, x_ij, pairs.attributes, pairs.first, layer.message, layer.push
    )
    return pair_messages.messages_and_phi_x(inputs, pairs.senders, going)


# (layer, features (P, B, H), positions as it sees them (P, B, 3)) -> displacements, features
Step = Callable[[Layer, Tensor, Tensor], tuple[Tensor, Tensor]]


def composed(seen: Seen, fixed: int) -> Step:
    """A layer's step in PyTorch's operations; the last layer's receivers are those that go."""
    pairs = Pairs.among(seen.start, seen.charges)
    to_going = pairs.tail(fixed)

    def step(layer: Layer, h: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        of_layer = to_going if layer.update is None else pairs
        displacements, h = layer(h, now, seen.velocities, of_layer, fixed)
        return displacements, h

    return step


def compiled(seen: Seen, fixed: int) -> Step:
    """The same as one compiled operation a layer."""

    def step(layer: Layer, h: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        first = fixed if layer.update is None else 0
        weights = nbody_step.weights(layer.message, layer.push, layer.drift, layer.update)
        return nbody_step.step(h, now, seen, weights, first, fixed)

    return step


def chosen(seen: Seen, fixed: int, hidden: int) -> Step:
    """How a layer's step is taken: compiled where that can be, else composed."""
    usable = nbody_step.usable(seen, hidden)
    return compiled(seen, fixed) if usable else composed(seen, fixed)


class EGNNDynamics(nn.Module):
    """Charged particles in, their positions some time later out; any unit, the data's."""

    Config = NBodyConfig

    def __init__(self, config: NBodyConfig) -> None:
        super().__init__()
        if config.polarization not in MODES:
            known = ", ".join(MODES)
            raise UsageError(f"polarization is one of {known}, not {config.polarization!r}")
        self.config = config
        per_particle, self.moves = MODES[config.polarization]
        self.embeddings = nn.ModuleList(Linear(1, config.hidden) for _ in range(per_particle))
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
        per_particle = len(self.embeddings)
        x, v, q = (a.transpose(0, 1).contiguous() for a in (positions, velocities, charges))
        speeds = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
        h = torch.cat([embedding(speeds) for embedding in self.embeddings])  # (2n or n, B, H)
        fixed = (per_particle - 1) * x.shape[0]  # so many points come before those that go
        seen = Seen(torch.cat([x] * per_particle), torch.cat([q] * per_particle), v)
        step = chosen(seen, fixed, self.config.hidden)
        path, now = [x], seen.start
        for layer in cast(Iterable[Layer], self.layers):
            displacements, h = step(layer, h, now)
            path.append(path[-1] + displacements)
            if self.moves:
                now = torch.cat((x, path[-1])) if fixed else path[-1]
        return path

    @staticmethod
    def published(
        weights: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> tuple[NBodyConfig, dict[str, Tensor]]:
        """Published weights and arguments -> our configuration and state."""
        return published_nbody(weights, config)
