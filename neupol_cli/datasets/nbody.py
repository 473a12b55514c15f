"""Charged particles in empty space: the n-body data of EGNN (Satorras et al. 2021, section 5.1).

The simulator is that of the published data (after Kipf et al. 2018): unit masses, charges of -1 or
1, no softening but a limit on the force, everything in the simulator's own units.

    F_i = sum_j q_i q_j (x_i - x_j) / |x_i - x_j|^3,  each component within +-100
    v += dt F;  x += dt v                             dt = 0.001

A system is looked at every 100 steps. The network sees step 3,100 and is asked for the positions at
step 4,100. The random numbers are those of the published stream, drawn in its order; the
integration goes through hundreds of systems at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neupol_cli.errors import InputError, UsageError
from neupol_cli.io.hdf5 import Dataset, Target
from neupol_cli.progress import Tick

PARTICLES = 5
SPEED = 0.5  # of every particle at the start
STEP = 1e-3
STRONGEST = 100.0  # the largest component of a force
WALL = 5.0  # a start beyond it is reflected once; there are no walls later
SEEN, ASKED = 3100, 4100  # steps of the input and of the answer
# The stream draws two blocks of observation noise of amplitude zero behind every system.
NOISE = 2 * 49 * 3 * PARTICLES
PARTS = ("train", "valid", "test")
# Of each part the published stream draws so many systems; a smaller part is the first of them.
PUBLISHED = {"train": 10_000, "valid": 2_000, "test": 2_000}
CHUNK = 256  # systems that are integrated together: their pairs fit in a core's cache


@dataclass(frozen=True)
class Systems:
    """S systems of n particles: charges (S, n), positions and velocities (S, n, 3)."""

    charges: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray

    def __getitem__(self, chosen: slice) -> Systems:
        return Systems(self.charges[chosen], self.positions[chosen], self.velocities[chosen])


def build(sizes: dict[str, int], seed: int, tick: Tick) -> Dataset:
    """A dataset of kind ``nbody`` with sizes["train"], ["valid"] and ["test"] systems.

    ``tick`` is told how many systems are done.

    Raises:
        UsageError: a size that makes no sense.
    """
    if sizes["train"] < 1 or min(sizes.values()) < 0:
        raise UsageError("at least one training system is needed, and no part can be negative")
    random = np.random.RandomState(seed)
    drawn = [draw(random, max(sizes[part], PUBLISHED[part]))[: sizes[part]] for part in PARTS]
    start = Systems(
        *(
            np.concatenate([getattr(part, name) for part in drawn])
            for name in ("charges", "positions", "velocities")
        )
    )
    return _dataset(start, [sizes[part] for part in PARTS], seed, tick)


def draw(random: np.random.RandomState, count: int) -> Systems:
    """The next systems of the stream, as they start."""
    charges = np.empty((count, PARTICLES))
    normals = np.empty((count, 2, 3, PARTICLES))
    for k in range(count):
        charges[k] = np.where(random.random_sample(PARTICLES) < 0.5, -1.0, 1.0)
        normals[k] = random.standard_normal((2, 3, PARTICLES))
        random.standard_normal(NOISE)
    positions, velocities = normals[:, 0], normals[:, 1]  # (count, 3, n)
    velocities *= SPEED / np.linalg.norm(velocities, axis=1, keepdims=True)
    _reflect(positions, velocities)
    return Systems(charges, positions.transpose(0, 2, 1), velocities.transpose(0, 2, 1))


def _reflect(positions: np.ndarray, velocities: np.ndarray) -> None:
    """Puts what starts outside the walls back inside, on its way to the middle."""
    for side in (1.0, -1.0):
        out = side * positions > WALL
        positions[out] = side * 2 * WALL - positions[out]
        velocities[out] = -side * np.abs(velocities[out])


def simulate(
    start: Systems, steps: tuple[int, ...], tick: Tick = lambda done: None
) -> list[Systems]:
    """The systems after each of some numbers of steps, ascending.

    Raises:
        InputError: two particles meet, so that the force is not a number.
    """
    chunks: list[list[Systems]] = [[] for _ in steps]
    for first in range(0, len(start.charges), CHUNK):
        chunk = start[first : first + CHUNK]
        for place, state in zip(chunks, _integrate(chunk, steps), strict=True):
            place.append(state)
        tick(first + len(chunk.charges))
    return [_joined(parts) for parts in chunks]


def _joined(parts: list[Systems]) -> Systems:
    names = ("charges", "positions", "velocities")
    joined = Systems(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))
    if not np.isfinite(joined.positions).all():
        raise InputError("two particles met in a simulation; choose another --seed")
    return joined


def _integrate(start: Systems, steps: tuple[int, ...]) -> list[Systems]:
    """One chunk. Arrays are (3, particles or pairs, systems): the long axis is the last one."""
    x = np.ascontiguousarray(start.positions.transpose(2, 1, 0))
    v = np.ascontiguousarray(start.velocities.transpose(2, 1, 0))
    i, j = np.triu_indices(x.shape[1], 1)
    charges = start.charges.T
    products = charges[i] * charges[j]  # (pairs, S)
    to_particles = np.zeros((x.shape[1], len(i)))  # a pair pushes i, and j the other way
    to_particles[i, range(len(i))], to_particles[j, range(len(i))] = 1.0, -1.0
    states = []
    for step in range(1, steps[-1] + 1):
        v += STEP * _forces(x, i, j, products, to_particles)
        x += STEP * v
        if step in steps:
            states.append(Systems(start.charges, x.transpose(2, 1, 0), v.transpose(2, 1, 0)))
            x, v = x.copy(), v.copy()
    return states


def _forces(
    x: np.ndarray, i: np.ndarray, j: np.ndarray, products: np.ndarray, to_particles: np.ndarray
) -> np.ndarray:
    """(3, n, S) limited Coulomb forces."""
    apart = x[:, i] - x[:, j]  # (3, pairs, S)
    squared = np.einsum("xps,xps->ps", apart, apart)
    apart *= products / (squared * np.sqrt(squared))
    forces = np.matmul(to_particles, apart)
    return np.clip(forces, -STRONGEST, STRONGEST, out=forces)


def _dataset(start: Systems, sizes: list[int], seed: int, tick: Tick) -> Dataset:
    now, later = simulate(start, (SEEN, ASKED), tick)
    count = len(now.charges)
    ends = np.cumsum([0, *sizes])
    split = {part: np.arange(*ends[k : k + 2]) for k, part in enumerate(PARTS)}
    return Dataset(
        "nbody",
        # Particles are of no element; the format wants a number, and all of them have the first.
        numbers=np.ones(count * PARTICLES, np.int64),
        positions=now.positions.reshape(-1, 3),
        offsets=np.arange(count + 1) * PARTICLES,
        targets={
            "velocities": Target(now.velocities.reshape(-1, 3), "1", "atom"),
            "charges": Target(now.charges.reshape(-1), "1", "atom"),
            "positions_later": Target(later.positions.reshape(-1, 3), "1", "atom"),
        },
        splits={"default": split},
        source=f"charged particles after Satorras et al. 2021, seed {seed}, simulated by neupol",
    )
