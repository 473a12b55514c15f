"""What a network is asked to learn: standardised labels, in the model's own units and back."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch

from neupol_cli import registry
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import hdf5
from neupol_cli.targets import TARGETS
from neupol_cli.training import config_overrides
from neupol_cli.training.labels import bounded_targets
from neupol_cli.training.property_task import property_task
from neupol_cli.training.request import Request
from neupol_cli.training.start import Start
from neupol_cli.training.target_normalization import (
    ANY,
    NOTHING,
    composition,
    normalization_of,
)
from neupol_cli.training.tasks import task_for

SMALL = {"hidden": 8, "layers": 2, "cutoff": 5.0, "encoding": "learned"}


@pytest.fixture(scope="module")
def dataset() -> hdf5.Dataset:
    """Thirty small random molecules; ``energy`` is composition and a little more."""
    rng = np.random.default_rng(0)
    counts = rng.integers(2, 6, 30)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    numbers = rng.choice([1, 6, 8], offsets[-1])
    positions = rng.normal(size=(offsets[-1], 3)) * 1.5
    table = composition(numbers, offsets, (1, 6, 8))
    energy = table @ [-13.0, -1030.0, -2040.0] + 5.0 + 0.1 * rng.normal(size=30)
    targets = {
        "energy": hdf5.Target(energy, "eV"),
        "mu": hdf5.Target(rng.gamma(2.0, size=30), "D"),
        "forces": hdf5.Target(rng.normal(size=positions.shape), "eV/Angstrom", "atom"),
    }
    parts = np.split(rng.permutation(30), [18, 24])
    split = dict(zip(("train", "valid", "test"), parts, strict=True))
    return hdf5.Dataset(
        "structures", numbers, positions, offsets, targets=targets, splits={"s": split},
        references={"energy": {1: -13.0, 6: -1030.0, 8: -2040.0}}, source="random",
    )  # fmt: skip


def structures(dataset: hdf5.Dataset, part: str) -> list[ase.Atoms]:
    chosen = []
    for k in dataset.splits["s"][part]:
        rows = slice(dataset.offsets[k], dataset.offsets[k + 1])
        chosen.append(ase.Atoms(dataset.numbers[rows], dataset.positions[rows]))
    return chosen


def task(dataset: hdf5.Dataset, *targets: str, **more: Any) -> Any:
    request = {"targets": targets, "config": SMALL, "dtype": "float64", **more}
    return property_task("egnn", dataset, Request(**request))


def loss_of(one: Any, indices: torch.Tensor) -> float:
    return float(one.loss(indices, torch.Generator())[0].detach())


def test_errors_are_those_of_the_predictions(dataset: hdf5.Dataset) -> None:
    one = task(dataset, "energy", "mu", weights={"mu": 3.0})
    found = one.evaluate("test", one.model.eval(), lambda: None)
    answers = one.model.predict(structures(dataset, "test"))
    chosen = dataset.splits["s"]["test"]
    for name in ("energy", "mu"):
        error = np.abs(answers[name] - dataset.targets[name].values[chosen]).mean()
        assert found[name] == pytest.approx(error, rel=0, abs=1e-9)
    scaled = [
        found["energy"] / one.normalization.scale[0],
        found["mu"] / one.normalization.scale[1],
    ]
    assert found["weighted error"] == pytest.approx(
        (scaled[0] + 3 * scaled[1]) / 4, rel=0, abs=1e-12
    )
    assert one.metric == "weighted error" and one.units["mu"] == "D"
    assert one.meta["targets"] == {"energy": "eV", "mu": "D"}


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_loss_is_the_mean_of_standardised_errors(dataset: hdf5.Dataset, loss: str) -> None:
    one = task(dataset, "energy", "mu", loss=loss)
    answers = one.model.predict(structures(dataset, "train"))
    chosen = dataset.splits["s"]["train"]
    errors = [
        (answers[name] - dataset.targets[name].values[chosen]) / one.normalization.scale[k]
        for k, name in enumerate(("energy", "mu"))
    ]
    power = {"l1": 1, "l2": 2}[loss]
    expected = np.mean([np.mean(np.abs(e) ** power) for e in errors])
    assert loss_of(one, torch.arange(18)) == pytest.approx(expected, rel=0, abs=1e-9)


def test_energy_and_forces(dataset: hdf5.Dataset) -> None:
    one = task(dataset, "energy", "forces")
    answers = one.model.predict(structures(dataset, "train"), forces=True)
    chosen = dataset.splits["s"]["train"]
    rows = np.concatenate([np.arange(dataset.offsets[k], dataset.offsets[k + 1]) for k in chosen])
    labels = dataset.targets["forces"].values[rows]
    scale = np.sqrt(np.mean(labels**2))
    energy = np.abs(answers["energy"] - dataset.targets["energy"].values[chosen]).mean()
    force = np.abs(answers["forces"] - labels).mean()
    expected = (0.2 * energy + 0.8 * force) / scale
    assert loss_of(one, torch.arange(18)) == pytest.approx(expected, rel=0, abs=1e-9)
    found = one.evaluate("train", one.model.eval(), lambda: None)
    assert found["forces"] == pytest.approx(force, rel=0, abs=1e-10)
    assert found["energy"] == pytest.approx(energy, rel=0, abs=1e-9)
    assert all(p.grad is None for p in one.model.parameters())
    one.loss(torch.arange(4), torch.Generator())[0].backward()
    assert sum(p.grad is not None for p in one.model.parameters()) > 10


def test_what_cannot_be_negative_is_bounded(dataset: hdf5.Dataset) -> None:
    one = task(dataset, "energy", "mu")
    assert one.model.config.positive == ("mu",)
    free = task(dataset, "energy", "mu", bounded=False)  # as published networks
    assert free.model.config.positive == ()
    asked = task(dataset, "energy", "mu", config=SMALL | {"positive": []})
    assert asked.model.config.positive == ()
    # A length of a vector needs no bound; labels that are negative are of something else.
    names, settings = ("energy", "mu"), {"targets": ["energy", "mu"], "units": ["eV", "D"]}
    assert bounded_targets("equivariant-transformer", dataset, names, settings) == []
    values = dataset.targets["mu"].values - 1.5
    signed = replace(dataset, targets=dataset.targets | {"mu": hdf5.Target(values, "D")})
    assert task(signed, "mu").model.config.positive == ()


def test_a_bound_is_evaluated_and_not_learnt(dataset: hdf5.Dataset) -> None:
    """A network that answers far below zero is pulled up as if there were no bound."""
    one, free = task(dataset, "mu"), task(dataset, "mu", bounded=False)
    for each in (one, free):
        with torch.no_grad():
            each.model.shift.fill_(-7.0)
    assert loss_of(one, torch.arange(5)) == loss_of(free, torch.arange(5))
    answers = one.model.eval().predict(structures(dataset, "test"))["mu"]
    assert (answers >= 0).all() and (answers < 1e-9).all()
    assert (free.model.eval().predict(structures(dataset, "test"))["mu"] < 0).all()
    one.model.shift.copy_(torch.from_numpy(one.normalization.shift))
    with torch.no_grad():
        for parameter in one.model.parameters():
            parameter *= 2.0
    answers = one.model.predict(structures(dataset, "test"))["mu"]
    error = np.abs(answers - dataset.targets["mu"].values[dataset.splits["s"]["test"]]).mean()
    found = one.evaluate("test", one.model, lambda: None)["mu"]
    assert found == pytest.approx(error, rel=0, abs=1e-9)


def test_smoothness_is_added(dataset: hdf5.Dataset) -> None:
    plain, smooth = task(dataset, "mu"), task(dataset, "mu", smoothness=0.5)
    rough = float(plain.model.smoothness().detach())
    difference = loss_of(smooth, torch.arange(5)) - loss_of(plain, torch.arange(5))
    assert rough > 0 and difference == pytest.approx(0.5 * rough, rel=0, abs=1e-12)
    with pytest.raises(UsageError, match="--encoding learned"):
        task(dataset, "mu", smoothness=0.5, config={"hidden": 8, "layers": 1})


def test_training_set_alone_is_standardised(dataset: hdf5.Dataset) -> None:
    one = task(dataset, "energy", "mu", tied=False)
    train = one.learnt[torch.from_numpy(dataset.splits["s"]["train"])]
    assert train.mean(0).abs().max() < 1e-10
    assert train.abs().mean(0).tolist() == pytest.approx([1, 1], rel=0, abs=1e-10)
    references = one.model.reference
    assert references[0].tolist() == pytest.approx([-13, -1030, -2040], rel=0, abs=3)
    assert references[1].abs().max() == 0  # composition says nothing about mu
    limited = task(dataset, "mu", limit=7)
    assert limited.size == 7
    first = dataset.targets["mu"].values[dataset.splits["s"]["train"][:7]]
    assert float(limited.model.shift[0]) == pytest.approx(first.mean(), rel=0, abs=1e-12)


def test_extensive_targets_are_sums_over_atoms(dataset: hdf5.Dataset) -> None:
    """Whatever references bring, or else twice the molecule had not twice the answer."""
    values = dataset.targets["energy"].values % 1.0  # composition says little about it
    labels = {"Cv": hdf5.Target(values, "cal/mol/K")}
    named = replace(dataset, targets=labels, references={})
    published, ours = (task(named, "Cv", tied=tied).model for tied in (False, True))
    assert not published.reference.any() and published.shift[0] > 0.1
    assert ours.shift[0] == 0
    train = dataset.splits["s"]["train"]
    counts = composition(dataset.numbers, dataset.offsets, (1, 6, 8))[train]
    expected = np.linalg.lstsq(counts, values[train], rcond=None)[0]
    assert np.abs(ours.reference[0].numpy() - expected).max() < 1e-12
    assert task(named, "Cv", references="none").model.shift[0] > 0.1  # as asked for


def test_levels_have_no_sums_over_atoms(dataset: hdf5.Dataset) -> None:
    """However much they bring: a cell would have another level than two of it."""
    energies = dataset.targets["energy"].values
    named = replace(dataset, targets={"homo": hdf5.Target(energies, "eV")}, references={})
    request = Request(targets=("homo",), config={"hidden": 16, "layers": 1}, dtype="float64")
    model = property_task("painn", named, request).model
    train = dataset.splits["s"]["train"]
    assert not model.reference.any()
    assert float(model.shift[0]) == pytest.approx(energies[train].mean(), rel=0, abs=1e-9)


def test_kinds_of_references(dataset: hdf5.Dataset) -> None:
    given = task(dataset, "energy", "mu", references="atoms").model.reference
    assert given.tolist() == [[-13.0, -1030.0, -2040.0], [0.0, 0.0, 0.0]]
    none = task(dataset, "energy", references="none", scale="std").model
    train = dataset.targets["energy"].values[dataset.splits["s"]["train"]]
    assert float(none.scale[0]) == pytest.approx(train.std(), rel=1e-12)
    with pytest.raises(InputError, match=r"no atomic references for mu .*there are: energy"):
        task(dataset, "mu", references="atoms")
    for table in ({}, {1: -13.0, 6: -1030.0}):  # of data without free atoms, or without some
        lacking = replace(dataset, references={"energy": table})
        with pytest.raises(InputError, match=r"energy of all elements .*there are: none"):
            task(lacking, "energy", references="atoms")
    with pytest.raises(UsageError, match="--references is one of"):
        task(dataset, "mu", references="some")
    with pytest.raises(UsageError, match="--scale is one of"):
        task(dataset, "mu", scale="some")


def test_nothing_is_taken_off_a_length() -> None:
    """A head that answers a length could never say the mean less."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, (40, 2)).astype(float)
    values = np.stack([counts @ [3.0, 5.0], counts @ [3.0, 5.0] + 7], 1)
    for references in ("fitted", "none"):
        names, kinds = ("size", "energy"), (NOTHING, ANY)
        found = normalization_of(values, counts, names, references, "std", {}, kinds)
        assert found.shift[0] == 0 and not found.references[0].any()
        assert found.scale[0] == pytest.approx(values[:, 0].std(), rel=0, abs=1e-12)
        assert found.shift[1] != 0
    bare = normalization_of(values, counts, ("a", "b"), "fitted", "none", {}, (NOTHING, ANY))
    assert bare.scale.tolist() == [1, 1] and not bare.references[0].any()


def test_constant_labels_have_scale_one() -> None:
    values, counts = np.full((5, 1), 3.0), np.ones((5, 2))
    found = normalization_of(values, counts, ("a",), "none", "mad", {}, (ANY,))
    assert found.scale.tolist() == [1.0] and found.applied(values, counts).tolist() == [[0.0]] * 5


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (("U0",), InputError, "no label 'U0' to learn in the data; there are: energy, mu, forces"),
        (("forces",), UsageError, "add --target energy"),
        (("energy", "mu", "forces"), UsageError, "forces go with one energy"),
        (("mu", "forces"), InputError, "do not belong together"),
    ],
)
def test_labels_that_do_not_fit(
    dataset: hdf5.Dataset, targets: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        task(dataset, *targets)


def test_labels_of_a_sort_that_nothing_answers_say_so(dataset: hdf5.Dataset) -> None:
    labels = {
        "charges": hdf5.Target(np.zeros(len(dataset.numbers)), "e", "atom"),
        "stress": hdf5.Target(np.zeros((dataset.size, 3, 3)), "eV/Angstrom^3"),
    }
    odd = replace(dataset, targets=dataset.targets | labels)
    with pytest.raises(InputError, match=r"label 'charges' is a number per atom; .*: energy"):
        task(odd, "charges")
    with pytest.raises(InputError, match=r"label 'stress' is 3 x 3 numbers per structure"):
        task(odd, "stress")


def test_a_number_needs_no_record_to_be_learnt(dataset: hdf5.Dataset) -> None:
    label = hdf5.Target(np.arange(float(dataset.size)), "bohr^3")
    made = task(
        replace(dataset, targets={"polarizability": label}, references={}), "polarizability"
    )
    assert "polarizability" not in TARGETS and made.units == {"polarizability": "bohr^3"}


def test_other_things_that_do_not_fit(dataset: hdf5.Dataset) -> None:
    with pytest.raises(InputError, match=r"no partition 'x'; there are: s"):
        task(dataset, "mu", partition="x")
    with pytest.raises(InputError, match=r"elements \[8\] that are not in"):
        task(dataset, "mu", config={"species": [1, 6]})
    with pytest.raises(UsageError, match="--loss is one of l1, l2"):
        task(dataset, "mu", loss="huber")
    with pytest.raises(UsageError, match="--weight U0: is not trained here"):
        task(dataset, "mu", weights={"U0": 1.0})
    with pytest.raises(UsageError, match="--default-dtype"):
        task(dataset, "mu", dtype="float16")
    with pytest.raises(UsageError, match="--device nonsense"):
        task(dataset, "mu", device="nonsense")
    structure = dataset.numbers, dataset.positions, dataset.offsets
    with pytest.raises(InputError, match="the data have no labels of structures"):
        task_for("egnn", hdf5.Dataset("density", *structure), Request())
    with pytest.raises(InputError, match="learns from a dataset of structures"):
        task_for("egnn", hdf5.Dataset("nbody", *structure), Request())


def test_seed_decides_the_weights(dataset: hdf5.Dataset) -> None:
    a, b, c = (task(dataset, "mu", seed=seed).model.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


def test_settings_are_typed() -> None:
    Config = registry.entry("egnn").load().Config
    texts = ["hidden=32", "cutoff=4.5", "species=1,6", "encoding=mlp"]
    found = config_overrides.config_overrides(Config, texts)
    assert found == {"hidden": 32, "cutoff": 4.5, "species": [1, 6], "encoding": "mlp"}
    assert config_overrides.config_overrides(Config, ["cutoff=none"]) == {"cutoff": None}
    with pytest.raises(UsageError, match=r"no such setting; it has .*hidden"):
        config_overrides.config_overrides(Config, ["hiden=3"])
    with pytest.raises(UsageError, match="is no int"):
        config_overrides.config_overrides(Config, ["hidden=3.5"])
    with pytest.raises(UsageError, match="KEY=VALUE"):
        config_overrides.config_overrides(Config, ["hidden"])
    assert config_overrides.numbers(["a=0.5"], "--weight") == {"a": 0.5}
    with pytest.raises(UsageError, match="--weight"):
        config_overrides.numbers(["a=b"], "--weight")


def test_intervals() -> None:
    assert config_overrides.interval("500") == (500, float("inf"))
    assert config_overrides.interval("60s") == (0, 60.0)
    assert config_overrides.interval("500,1.5s") == (500, 1.5)
    for text in ("", "x", "5m", "0", "-3"):
        with pytest.raises(UsageError, match="--save-every"):
            config_overrides.interval(text)


def test_file_and_memory_agree(dataset: hdf5.Dataset, tmp_path: Path) -> None:
    hdf5.write(tmp_path / "d.h5", dataset)
    again = hdf5.read(tmp_path / "d.h5")
    assert again.fingerprint == dataset.fingerprint
    assert loss_of(task(again, "mu"), torch.arange(5)) == loss_of(
        task(dataset, "mu"), torch.arange(5)
    )


def test_no_scale_leaves_labels_and_a_named_one_holds_with_forces(dataset: hdf5.Dataset) -> None:
    plain = task(dataset, "energy", references="atoms", scale="none").model
    assert (float(plain.scale[0]), float(plain.shift[0])) == (1.0, 0.0)
    assert plain.reference.tolist() == [[-13.0, -1030.0, -2040.0]]
    train = dataset.targets["energy"].values[dataset.splits["s"]["train"]]
    named = task(dataset, "energy", "forces", references="none", scale="std").model
    assert float(named.scale[0]) == pytest.approx(train.std(), rel=1e-12)
    assert float(named.shift[0]) == pytest.approx(train.mean(), rel=1e-12)


def test_references_of_two_kinds_are_not_mixed(dataset: hdf5.Dataset) -> None:
    """What a trained model knows keeps its fitted references; free atoms' would go to the rest."""
    model = task(dataset, "energy").model
    start = Start("it", "", "egnn", asdict(model.config), dict(model.state_dict()))
    config = start.settings(dataset.elements)
    with pytest.raises(UsageError, match="--references atoms: what --from knows keeps its own"):
        task(dataset, "energy", start=start, config=config, references="atoms")
    gone_on = task(dataset, "energy", start=start, config=config, references="none")
    assert gone_on.model.training and torch.equal(gone_on.model.reference, model.reference)
