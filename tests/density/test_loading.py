"""Which bundled model a structure gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk, molecule

from neupol_cli.density.loading import AUTO, Candidate, Chosen, ModelChoice, fitting
from tests import warm

DENSITY = Candidate("density", frozenset({1, 6, 8}), molecules=True, periodic=False)
CRYSTAL = Candidate("crystal", frozenset({1, 8, 11, 17}), molecules=False, periodic=True)
BOXED = Atoms("OH2", positions=molecule("H2O").positions, cell=[9] * 3, pbc=True)


@pytest.mark.parametrize(
    ("atoms", "names"),
    [
        (molecule("H2O"), ["density"]),
        (bulk("NaCl", "rocksalt", 5.64), ["crystal"]),
        (BOXED, ["crystal", "density"]),
        (molecule("CH4"), ["density"]),
        (bulk("C"), ["density"]),
        (molecule("HCl"), ["density"]),
        (bulk("Au"), ["crystal"]),
    ],
    ids=["H2O", "NaCl", "H2O in a cell", "CH4", "diamond", "HCl", "gold"],
)  # fmt: skip
def test_elements_come_before_what_a_model_was_trained_on(
    monkeypatch: pytest.MonkeyPatch, atoms: Atoms, names: list[str]
) -> None:
    monkeypatch.setattr(Candidate, "all", classmethod(lambda cls: iter((CRYSTAL, DENSITY))))
    assert fitting(atoms) == names


@pytest.mark.parametrize(("bounds", "name"), [((2.0, 9.0), "density"), ((9.0, 2.0), "crystal")])
def test_of_two_the_one_that_is_less_far_off_is_chosen(
    monkeypatch: pytest.MonkeyPatch, bounds: tuple[float, float], name: str
) -> None:
    monkeypatch.setattr(Candidate, "all", classmethod(lambda cls: iter((CRYSTAL, DENSITY))))
    monkeypatch.setattr(ModelChoice, "_load", lambda self, name: name)
    off = dict(zip(("density", "crystal"), bounds, strict=True))
    monkeypatch.setattr(Chosen, "off", lambda self, atoms: off[self.name])
    for asked in (ModelChoice(), ModelChoice(AUTO)):
        assert asked.chosen(BOXED).name == name
        assert asked.chosen(bulk("NaCl", "rocksalt", 5.64)).name == "crystal"
    assert ModelChoice("spin").chosen(BOXED) == ("spin", "spin")


def test_models_of_total_densities_are_candidates() -> None:
    assert "density" in {candidate.name for candidate in Candidate.all()}
    assert "spin" not in {candidate.name for candidate in Candidate.all()}


def test_a_model_is_loaded_once() -> None:
    choice = ModelChoice()
    assert choice.model_for(molecule("H2O")) is choice.model_for(molecule("CH4"))


def test_what_was_chosen_is_said(tmp_path: Path) -> None:
    molecule("H2O").write(tmp_path / "water.xyz")
    for command in ("charges", "potential"):
        done = warm.neupol(command, tmp_path / "water.xyz", "--json", "--spacing", 0.5)
        assert json.loads(done.stdout)["model"] == "density"
    done = warm.neupol("density", tmp_path / "water.xyz", "-o", tmp_path / "w.cube")
    assert "\n  model      density\n" in done.stdout
