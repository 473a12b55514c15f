"""What must hold of every network that answers with vectors, and that the others refuse to."""

from __future__ import annotations

from dataclasses import replace

import ase
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from neupol_cli import registry
from neupol_cli.errors import UsageError
from neupol_cli.training.labels import known_readouts
from neupol_cli.training.loop import Trainer
from neupol_cli.training.request import Request
from neupol_cli.training.settings import Settings
from neupol_cli.training.tasks import task_for
from tests.contracts.conftest import CHIRAL, MODES, SMALL, Case
from tests.training.test_dipole import dataset

NETWORKS = [Case(name, mode) for name in SMALL for mode in MODES[name]]


def settings_of(case: Case) -> dict[str, object]:
    return SMALL[case.name] | {"polarization": case.mode}


VECTORS = [c for c in NETWORKS if "vector" in known_readouts(c.name, settings_of(c))]
ONE_EACH = list({c.name: c for c in reversed(VECTORS)}.values())  # its first mode that has them
NUMBERS = [c for c in NETWORKS if c not in VECTORS]


def test_networks_with_vectors_are_these() -> None:
    assert {case.name for case in VECTORS} == {
        "egnn",
        "equivariant-transformer",
        "equiformer",
        "painn",
    }


@pytest.mark.parametrize("case", VECTORS, ids=str)
def test_a_vector_turns_with_the_structure(case: Case, molecules: list[ase.Atoms]) -> None:
    model = case.build(targets=("dipole", "zpve"), units=("D", "eV"), outputs=("vector", "scalar"))
    expected = model.predict(molecules)
    assert expected["dipole"].shape == (3, 3) and np.abs(expected["dipole"]).max() > 1e-3
    turn = Rotation.random(random_state=3).as_matrix()
    for matrix in (turn,) if case.name in CHIRAL else (turn, -turn):
        moved = [ase.Atoms(a.numbers, a.positions @ matrix.T + [3, -2, 7]) for a in molecules]
        found = model.predict(moved)
        turned = expected["dipole"] @ matrix.T
        np.testing.assert_allclose(found["dipole"], turned, rtol=0, atol=1e-10)
        np.testing.assert_allclose(found["zpve"], expected["zpve"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("label", ["dipole", "mu"])
@pytest.mark.parametrize("case", ONE_EACH, ids=str)
def test_a_vector_is_learnt_from_vectors_and_lengths(case: Case, label: str) -> None:
    request = Request(("dipole",), config=settings_of(case), dtype="float64")
    task = task_for(case.name, dataset(label), request)
    trainer = Trainer(task, Settings(steps=40, batch_size=8, lr=1e-2, ema=0.9))
    before = trainer.evaluate_split("train", lambda: None)["dipole"]
    for _ in range(40):
        trainer.step()
    assert trainer.evaluate_split("train", lambda: None)["dipole"] < 0.5 * before


@pytest.mark.parametrize("case", NUMBERS, ids=str)
def test_networks_without_vectors_say_what_to_do(case: Case) -> None:
    request = Request(("dipole",), config=settings_of(case))
    with pytest.raises(UsageError) as refusal:
        task_for(case.name, dataset("dipole"), request)
    message = str(refusal.value)
    assert "\n" not in message and f"{case.name} has no vectors" in message
    assert "train equivariant-transformer or equiformer" in message
    assert ("--polarization movable" in message) == (case.name == "egnn")
    with pytest.raises(UsageError, match="outputs takes one of scalar for each of"):
        registry.build(case.name, settings_of(case) | {"outputs": ("vector",)})


def test_a_vector_beside_numbers_leaves_them_to_the_networks_own_way() -> None:
    data = dataset("dipole")
    both = replace(data, targets=data.targets | dataset("mu").targets)
    for name, readout in (("equivariant-transformer", "dipole"), ("equiformer", "scalar")):
        request = Request(("dipole", "mu"), config=SMALL[name])
        model = task_for(name, both, request).model
        assert model.backbone.readouts == ("vector", readout)
