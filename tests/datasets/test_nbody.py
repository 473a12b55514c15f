"""The simulator of charged particles against published systems and against physics."""

from __future__ import annotations

import numpy as np
import pytest

from neupol_cli.datasets import nbody
from neupol_cli.datasets.nbody import Systems
from neupol_cli.errors import UsageError


@pytest.fixture(scope="module")
def first() -> Systems:
    return nbody.draw(np.random.RandomState(43), 2)


def test_the_first_systems_are_the_published_ones(parity, first) -> None:
    published = parity("egnn_nbody")
    seen, later = nbody.simulate(first, (nbody.SEEN, nbody.ASKED))
    for found, key in (
        (seen.positions, "positions"),
        (seen.velocities, "velocities"),
        (seen.charges, "charges"),
        (later.positions, "simulated_positions"),
    ):
        np.testing.assert_allclose(found.reshape(published[key].shape), published[key], 0, 1e-11)


def energy(s: Systems) -> np.ndarray:
    """(S,) kinetic and Coulomb energy, unit masses."""
    i, j = np.triu_indices(s.charges.shape[1], 1)
    apart = np.linalg.norm(s.positions[:, i] - s.positions[:, j], axis=-1)
    coulomb = (s.charges[:, i] * s.charges[:, j] / apart).sum(1)
    return 0.5 * np.square(s.velocities).sum((1, 2)) + coulomb


def test_energy_and_momentum_are_kept() -> None:
    random = np.random.RandomState(0)
    corners = 4.0 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
    charges = np.ones((3, 5))  # like charges never meet
    start = Systems(charges, corners + random.randn(3, 5, 3) * 0.2, random.randn(3, 5, 3) * 0.1)
    (end,) = nbody.simulate(start, (1000,))
    assert np.abs(end.positions - start.positions).max() > 0.05
    np.testing.assert_allclose(energy(end), energy(start), rtol=0, atol=1e-3)
    momenta = [s.velocities.sum(1) for s in (start, end)]
    np.testing.assert_allclose(*momenta, rtol=0, atol=1e-12)


def test_a_system_does_not_depend_on_those_simulated_with_it(first) -> None:
    together = nbody.simulate(first, (50,))[0]
    alone = nbody.simulate(first[1:2], (50,))[0]
    np.testing.assert_allclose(together.positions[1:], alone.positions, rtol=0, atol=1e-14)


def test_a_start_outside_is_reflected() -> None:
    x, v = np.array([[[6.0, -5.5, 1.0]]]), np.array([[[1.0, -2.0, -3.0]]])
    nbody._reflect(x, v)
    np.testing.assert_array_equal(x, [[[4.0, -4.5, 1.0]]])
    np.testing.assert_array_equal(v, [[[-1.0, 2.0, -3.0]]])


def test_forces_are_limited() -> None:
    near = Systems(np.ones((1, 2)), np.array([[[0.0, 0, 0], [1e-3, 0, 0]]]), np.zeros((1, 2, 3)))
    (end,) = nbody.simulate(near, (1,))
    np.testing.assert_allclose(end.velocities[0, :, 0], [-0.1, 0.1], rtol=0, atol=1e-15)


def test_parts_are_cut_from_the_published_stream(monkeypatch) -> None:
    monkeypatch.setattr(nbody, "PUBLISHED", {"train": 4, "valid": 2, "test": 2})
    monkeypatch.setattr(nbody, "SEEN", 1)
    monkeypatch.setattr(nbody, "ASKED", 2)
    whole = nbody.build({"train": 4, "valid": 2, "test": 2}, 7, lambda done: None)
    small = nbody.build({"train": 2, "valid": 1, "test": 0}, 7, lambda done: None)
    kept = whole.positions.reshape(8, 5, 3)[[0, 1, 4]]
    np.testing.assert_array_equal(small.positions.reshape(3, 5, 3), kept)
    assert {k: len(v) for k, v in small.splits["default"].items()} == {
        "train": 2,
        "valid": 1,
        "test": 0,
    }


def test_no_training_systems_are_refused() -> None:
    with pytest.raises(UsageError):
        nbody.build({"train": 0, "valid": 1, "test": 1}, 0, lambda done: None)
