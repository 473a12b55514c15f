"""EGNN with velocities (Satorras, Hoogeboom and Welling 2021, eq. 7): where particles will be.

    e_ij  = [q_i q_j, |x_ij(0)|^2]                       h_i = L(|v_i|)
    m_ij  = silu(L(silu(L[h_i, h_j, |x_ij|^2, e_ij])))   phi_e
    x_i  += mean_j clamp(x_ij phi_x(m_ij), +-100) + phi_v(h_i) v_i
            phi_x = w . silu(L m),   phi_v = L(silu(L h)),   v as it was given
    h_i  += L(silu(L[h_i, sum_j m_ij]))                  phi_h; reads the old h, and so does x

The answer is x after the last layer, whose features nobody reads: they are not computed, and their
weights do not exist here. Every system has the same n particles, so edges are a dense tensor
(receiver, sender, system, feature) without indices, apart from one gather of the senders.

Neural Polarization (Kwak and Jo, eqs. 4-8): every particle gets a movable point that starts on it,
with its charge and velocity and an embedding of its own. The 2n points exchange messages; the
particles stay where they are seen, and the movable points move. Their last place is the answer, as
the paper's readout takes movable points only. pi is the coordinate update that EGNN has already, so
`movable` has the parameters of `off` but for the second embedding. `frozen` sums up the same
displacements for the answer and lets no layer see them.

The paper's formulas hold x fixed; its Algorithm 2 writes x_t, and the baseline moves x. With
``particles_move`` particles go on moving as in the baseline, and the movable points beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from neupol_cli.errors import UsageError
from neupol_cli.models.base import Arguments, DynamicsModel
from neupol_cli.models.egnn.config import NBodyConfig
from neupol_cli.models.egnn.kernels import nbody_step, pair_messages
from neupol_cli.models.egnn.kernels.choice import NBodyKernels, nbody_kernels
from neupol_cli.models.egnn.published import published_nbody
from neupol_cli.models.nn.linear import Linear, Perceptron
from neupol_cli.models.polarization_modes import polarization_mode

FARTHEST = 100.0  # of one edge's x_ij phi_x; never met in practice, says the published code


class Particles(NamedTuple):
    """What is given of P points in B systems, and does not change from layer to layer.

    Attributes:
        positions: (P, B, 3) as given.
        charges: (P, B).
        velocities: (P - first_moving, B, 3) of the points that move.
    """

    positions: Tensor
    charges: Tensor
    velocities: Tensor

    @property
    def first_moving(self) -> int:
        """The first point that moves; those before it stay."""
        return self.positions.shape[0] - self.velocities.shape[0]


@dataclass(frozen=True)
class DenseEdges:
    """All edges among P points whose receiver is point ``first`` or a later one.

    R receivers have P - 1 senders each, in ascending order.

    Attributes:
        senders: (R (P - 1),) indices of points.
        attributes: (R, P - 1, B, 2) e_ij: q_i q_j and the squared distance that was given.
    """

    first: int
    senders: Tensor
    attributes: Tensor

    @classmethod
    def among(cls, particles: Particles) -> DenseEdges:
        """The edges between all points."""
        x, q = particles.positions, particles.charges
        points = x.shape[0]
        rank, own = torch.arange(points - 1, device=x.device), torch.arange(points, device=x.device)
        senders = (rank + (rank >= own[:, None])).flatten()  # all but the receiver itself
        without_attributes = cls(0, senders, x.new_empty(points, points - 1))
        squared = without_attributes.vectors(x).square().sum(-1)  # (P, P - 1, B)
        products = q[:, None] * without_attributes.sent(q)
        return cls(0, senders, torch.stack((products, squared), -1))

    def received(self, values: Tensor) -> Tensor:
        """(P, ...) -> (R, P - 1, ...), what each receiver has."""
        own = values[self.first :, None]
        return own.expand(-1, values.shape[0] - 1, *values.shape[1:])

    def sent(self, values: Tensor) -> Tensor:
        """(P, ...) -> (R, P - 1, ...), what each sender has."""
        points = values.shape[0]
        return values.index_select(0, self.senders).unflatten(0, (-1, points - 1))

    def vectors(self, x: Tensor) -> Tensor:
        """(P, B, 3) -> (R, P - 1, B, 3) x_ij, from sender to receiver."""
        return x[self.first :, None] - self.sent(x)

    def received_from(self, first: int) -> DenseEdges:
        """Those whose receiver is point ``first`` or a later one; of edges between all points."""
        senders = self.attributes.shape[1]
        return DenseEdges(first, self.senders[first * senders :], self.attributes[first:])


class Layer(nn.Module):
    """One step: how far points move, and, but for the last layer, their new features.

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
        self, h: Tensor, x: Tensor, particles: Particles, edges: DenseEdges, by_kernel: bool
    ) -> tuple[Tensor, Tensor]:
        """One step, as the paper has it.

        Args:
            h: (P, B, H) features.
            x: (P, B, 3) positions as the layer sees them.
            particles: what was given.
            edges: who sees whom; R receivers.
            by_kernel: whether pair_messages.py serves for :meth:`messages_and_phi_x`.

        Returns:
            (P - first_moving, B, 3) displacements, (P, B, H) features (of the last layer: as they
            were).
        """
        first = particles.first_moving
        moving = first - edges.first  # the first receiver that moves
        x_ij = edges.vectors(x)  # (R, P - 1, B, 3)
        messages = self.messages_by_kernel if by_kernel else self.messages_and_phi_x
        summed, phi_x = messages(h, x_ij, edges, moving)
        weighted = (x_ij[moving:] * phi_x).clamp(-FARTHEST, FARTHEST)
        displacements = weighted.mean(1) + self.phi_v(h[first:]) * particles.velocities
        return displacements, self.phi_h(h, summed)

    def messages_and_phi_x(
        self, h: Tensor, x_ij: Tensor, edges: DenseEdges, moving: int
    ) -> tuple[Tensor, Tensor]:
        """(R, B, H) sum_j m_ij, and (R - moving, P - 1, B, 1) phi_x of receivers that move."""
        m = self.phi_e(h, x_ij, edges)
        return m.sum(1), self.phi_x(m[moving:])

    def phi_e(self, h: Tensor, x_ij: Tensor, edges: DenseEdges) -> Tensor:
        """(P, B, H), (R, P - 1, B, 3) -> (R, P - 1, B, H) messages."""
        squared = x_ij.square().sum(-1, keepdim=True)
        inputs = (edges.received(h), edges.sent(h), squared, edges.attributes)
        return functional.silu(self.message(torch.cat(inputs, -1)))

    def phi_x(self, m: Tensor) -> Tensor:
        """(..., H) messages -> (..., 1)."""
        return self.push(m)

    def phi_v(self, h: Tensor) -> Tensor:
        """(..., H) features -> (..., 1)."""
        return self.drift(h)

    def phi_h(self, h: Tensor, summed: Tensor) -> Tensor:
        """(P, B, H) features and sum_j m_ij -> features; the last layer has none."""
        return h if self.update is None else h + self.update(torch.cat((h, summed), -1))

    def messages_by_kernel(
        self, h: Tensor, x_ij: Tensor, edges: DenseEdges, moving: int
    ) -> tuple[Tensor, Tensor]:
        """The same as :meth:`messages_and_phi_x`, as one operation."""
        inputs = pair_messages.pair_inputs(
            h, x_ij, edges.attributes, edges.first, self.message, self.push
        )
        return pair_messages.messages_and_phi_x(inputs, edges.senders, moving)


# (layer, features (P, B, H), positions as it sees them (P, B, 3)) -> displacements, features
Step = Callable[[Layer, Tensor, Tensor], tuple[Tensor, Tensor]]


def layer_by_layer(particles: Particles, kernels: NBodyKernels) -> Step:
    """A layer's own step; the last layer's receivers are the points that move."""
    edges = DenseEdges.among(particles)
    to_moving = edges.received_from(particles.first_moving)

    def step(layer: Layer, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        needed = to_moving if layer.update is None else edges
        displacements, h = layer(h, x, particles, needed, kernels.messages)
        return displacements, h

    return step


def compiled(particles: Particles) -> Step:
    """The same as one compiled operation a layer."""
    first_moving = particles.first_moving

    def step(layer: Layer, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        first = first_moving if layer.update is None else 0
        weights = nbody_step.weights(layer.message, layer.push, layer.drift, layer.update)
        return nbody_step.step(h, x, particles, weights, first, first_moving)

    return step


class EGNNDynamics(DynamicsModel):
    """Charged particles in, their positions some time later out; any unit, the data's."""

    Config = NBodyConfig
    config: NBodyConfig

    def __init__(self, config: NBodyConfig) -> None:
        super().__init__()
        self.config = config
        points = range(config.points_per_particle)
        # A particle's one point is where the answer stands; a second one may be held where it was.
        self.moves = len(points) == 1 or polarization_mode(config.polarization).moves
        if config.particles_move and config.polarization != "movable":
            raise UsageError("particles_move goes with movable points; without, particles move")
        self.embeddings = nn.ModuleList(Linear(1, config.hidden) for _ in points)
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
        x, v, q = (a.transpose(0, 1).contiguous() for a in (positions, velocities, charges))
        speeds = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
        h = torch.cat([embedding(speeds) for embedding in self.embeddings])  # (P, B, H)
        points = self.config.points_per_particle
        moving = points if self.config.particles_move else 1  # of each particle
        places = torch.cat([x] * points)
        particles = Particles(places, torch.cat([q] * points), torch.cat([v] * moving))
        still = places[: particles.first_moving]
        kernels = nbody_kernels(particles, self.config.hidden)
        step = compiled(particles) if kernels.layers else layer_by_layer(particles, kernels)
        path, sources = [places[particles.first_moving :]], places
        for layer in cast(Iterable[Layer], self.layers):
            displacements, h = step(layer, h, sources)
            path.append(path[-1] + displacements)
            if self.moves:
                sources = torch.cat((still, path[-1]))
        return [reached[-len(x) :] for reached in path]

    @staticmethod
    def published(
        weights: Mapping[str, Tensor], config: Arguments
    ) -> tuple[NBodyConfig, dict[str, Tensor]]:
        """Published weights and arguments -> our configuration and state."""
        return published_nbody(weights, config)
