"""Targets that are made of others: exactly so, whatever the weights, before and after training."""

from __future__ import annotations

import ase.build
import numpy as np
import pytest
import torch

from neupol_cli import registry
from neupol_cli.errors import UsageError
from neupol_cli.models.ties import mixed, tie_matrix, tied_targets
from neupol_cli.training.start import Start, ties
from neupol_cli.training.target_normalization import TargetNormalization

NAMES = ("homo", "lumo", "gap", "U0", "U")
MOLECULES = [ase.build.molecule(name) for name in ("H2O", "CH4", "CO2")]


def model(tied=("gap", "U")):
    torch.manual_seed(0)
    settings = {"hidden": 16, "layers": 1, "targets": NAMES, "units": ("eV",) * 5, "tied": tied}
    built = registry.build("painn", settings).double().eval()
    built.scale.copy_(torch.tensor([0.5, 1.5, 2.0, 10.0, 9.0]))
    references = torch.arange(25, dtype=torch.float64).view(5, 5)
    normalization = TargetNormalization(references.numpy(), np.array([-6.0, 0.2, 7.0, 3, 4]), None)
    tied_units = normalization.tied(built.ties.numpy())
    built.shift.copy_(torch.from_numpy(tied_units.shift))
    built.reference.copy_(torch.from_numpy(tied_units.references))
    return built


def test_a_whole_is_its_parts():
    found = model().predict(MOLECULES)
    assert np.abs(found["gap"] - (found["lumo"] - found["homo"])).max() < 1e-12


def test_a_target_with_a_difference_of_its_own_is_its_parts_and_that():
    tied, free = model().predict(MOLECULES), model(tied=()).predict(MOLECULES)
    assert np.abs(tied["U0"] - free["U0"]).max() == 0
    baseline = [z @ np.arange(15, 20) + 3 for z in counts()]  # of U0
    assert np.abs(tied["U"] - free["U"] - (free["U0"] - baseline)).max() < 1e-12
    assert np.abs(tied["U"] - free["U"]).max() > 0.1


def counts() -> list[np.ndarray]:
    return [np.array([(m.numbers == z).sum() for z in (1, 6, 7, 8, 9)]) for m in MOLECULES]


def test_mixing_is_in_units():
    columns = {name: slice(k, k + 1) for k, name in enumerate(NAMES)}
    matrix = tie_matrix(("gap",), columns)
    scale = torch.tensor([0.5, 1.5, 2.0, 1.0, 1.0], dtype=torch.float64)
    raw = torch.tensor([[2.0, 4.0, 100.0, 0.0, 0.0]], dtype=torch.float64)
    assert mixed(raw, matrix, scale)[0, 2] == (1.5 * 4 - 0.5 * 2) / 2


def test_what_can_be_tied():
    assert tied_targets(NAMES) == ["gap", "U"]
    assert tied_targets(("gap", "lumo", "U", "H")) == []
    with pytest.raises(UsageError, match="tied names gap, which cannot be made of the other"):
        registry.build("painn", {"targets": ("gap",), "units": ("eV",), "tied": ("gap",)})
    with pytest.raises(UsageError, match="tied names mu"):
        registry.build("painn", {"targets": ("mu",), "units": ("D",), "tied": ("mu",)})


def start(targets, tied) -> Start:
    return Start("before", "", "painn", {"targets": targets, "tied": tied}, {})


def test_training_that_goes_on_keeps_what_heads_mean():
    assert ties(NAMES, None) == ["gap", "U"]
    assert ties(NAMES, start(NAMES, ("U",))) == ["U"]
    assert ties((*NAMES, "H"), start(NAMES, ())) == ["H"]
    with pytest.raises(UsageError, match="U was learnt with U0, which are left out"):
        ties(("U", "homo"), start(NAMES, ("gap", "U")))
