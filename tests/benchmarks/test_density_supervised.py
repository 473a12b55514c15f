"""benchmarks/density_supervised.py: what is said of displacements beside dipoles."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from ase import Atoms

FOLDER = Path(__file__).parents[2] / "benchmarks"
NUMBERS = np.repeat((1, 6, 8), (40, 30, 20))


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("density_supervised")


def vectors(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(NUMBERS), 3))


def test_explained_has_a_factor_an_element(script):
    moves, other = vectors(0), vectors(1)
    shifts = moves * np.choose(np.searchsorted((1, 6, 8), NUMBERS), (2.0, -3.0, 0.5))[:, None]
    assert script.explained(shifts, NUMBERS, [moves]) == pytest.approx(1.0, abs=1e-12)
    assert script.explained(shifts, NUMBERS, [other]) < 0.1
    assert script.explained(shifts, NUMBERS, [np.roll(moves, 1, axis=0)]) < 0.1
    both = script.explained(shifts + other, NUMBERS, [moves, other])
    assert both == pytest.approx(1.0, abs=1e-12)


def test_shuffled_stay_within_their_element(script):
    moves = vectors(2)
    other = script.shuffled(moves, NUMBERS, np.random.default_rng(3))
    assert not np.array_equal(other, moves)
    for number in (1, 6, 8):
        rows = number == NUMBERS
        assert sorted(map(tuple, other[rows])) == sorted(map(tuple, moves[rows]))


def test_likeness_of_the_dipoles_themselves_is_whole(script):
    shifts, out = vectors(4), vectors(5)
    truth = script.Reference(NUMBERS, shifts, out, np.full_like(shifts, np.nan))
    truth.boys[:2] = -shifts[:2]
    found = script.likeness(shifts, truth)
    assert found["cosine"] == found["cosine of O"] == pytest.approx(1.0, abs=1e-12)
    assert found["to Boys"] == pytest.approx(-1.0, abs=1e-12)
    assert abs(found["shuffled"]) < 0.1
    bonds = script.explained(shifts, NUMBERS, [out])
    assert found["explained"] == pytest.approx(1.0, abs=1e-12)
    assert found["beside bonds"] == pytest.approx(1.0 - bonds, abs=1e-12)


def test_boys_centres_go_to_bonds_and_lone_pairs(script, monkeypatch):
    """A bond's centre is half each atom's, a lone pair's its own atom's."""
    atoms = Atoms("OH", [(0.0, 0.0, 0.0), (0.0, 0.0, 1.0)])
    centers = np.array([(0.0, 0.0, 0.4), (0.0, 0.3, -0.1)])
    monkeypatch.setattr(script, "boys_centers", lambda atoms: centers)
    expected = [(0.0, 0.3, 0.2 - 0.1), (0.0, 0.0, -0.3)]
    assert script.boys_sums(atoms) == pytest.approx(np.array(expected), abs=1e-12)
