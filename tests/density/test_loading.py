"""Which bundled model a structure gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk, molecule

from neupol_cli.density import loading
from neupol_cli.density.loading import Candidate, ModelChoice, suited
from tests import warm


def candidate(name: str, species: list[int], periodic: bool) -> Candidate:
    domain = {"molecules": not periodic, "periodic": periodic}
    return Candidate(name, {"config": {"species": species}, "domain": domain})


DENSITY, CRYSTAL = (
    candidate("density", [1, 6, 8], False),
    candidate("crystal", [1, 8, 11, 17], True),
)


@pytest.mark.parametrize("order", [(DENSITY, CRYSTAL), (CRYSTAL, DENSITY)])
@pytest.mark.parametrize(
    ("atoms", "name"),
    [
        (molecule("H2O"), "density"),
        (bulk("NaCl", "rocksalt", 5.64), "crystal"),
        (Atoms("OH2", positions=molecule("H2O").positions, cell=[9] * 3, pbc=True), "crystal"),
        (molecule("CH4"), "density"),
        (bulk("C"), "density"),
        (molecule("HCl"), "crystal"),
    ],
    ids=["H2O", "NaCl", "H2O in a cell", "CH4", "diamond", "HCl"],
)  # fmt: skip
def test_elements_come_before_what_a_model_was_trained_on(
    monkeypatch: pytest.MonkeyPatch, order: tuple[Candidate, ...], atoms: Atoms, name: str
) -> None:
    monkeypatch.setattr(Candidate, "all", classmethod(lambda cls: iter(order)))
    assert suited(atoms) == name
    assert ModelChoice().name_for(atoms) == ModelChoice(loading.AUTO).name_for(atoms) == name
    assert ModelChoice("spin").name_for(atoms) == "spin"


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
