"""neupol evaluate: how far models are from the labels of a dataset."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from neupol_cli import registry
from neupol_cli.io import hdf5

NAMES = ("H2O", "CH4", "NH3", "CH3OH", "C2H6", "HF", "N2")
SPLIT = {"train": np.array([5, 0, 2]), "test": np.array([3, 1])}  # 4 and 6 are in no part
ENERGY = {"targets": ("energy",), "units": ("eV",)}


@pytest.fixture(scope="module")
def frames() -> list[Atoms]:
    return [molecule(name) for name in NAMES]


@pytest.fixture(scope="module")
def model(untrained) -> Path:
    return untrained(seed=0)


def write(path: Path, frames: list[Atoms], targets: dict, splits: dict | None = None) -> Path:
    dataset = hdf5.from_atoms(frames, "structures", "test", targets=targets, splits=splits)
    hdf5.write(path, dataset)
    return path


@pytest.fixture
def labelled(tmp_path: Path, frames) -> Path:
    random = np.random.default_rng(1)
    u0, mu = random.normal(size=(2, len(frames)))
    targets = {"mu": hdf5.Target(mu, "D"), "U0": hdf5.Target(u0, "eV")}
    return write(tmp_path / "data.h5", frames, targets, {"default": SPLIT})


def records(done) -> dict[tuple[str, str], dict]:
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {(each.get("split", ""), each["label"]): each for each in found}


def test_errors_are_those_by_hand_for_each_part(neupol, model, labelled, frames) -> None:
    found = records(neupol("evaluate", labelled, "-m", model, "--json"))
    data, network = hdf5.read(labelled), registry.load(str(model))
    parts = {"train": [0, 2, 5], "test": [1, 3], "rest": [4, 6]}
    labels = ("U0", "U0/atom", "mu")
    assert list(found) == [(part, label) for part in parts for label in labels]
    for part, chosen in parts.items():
        said = network.predict([frames[k] for k in chosen])
        for label in labels:
            name, _, atoms = label.partition("/")
            error = said[name] - data.targets[name].values[chosen]
            error = error / data.counts[chosen] if atoms else error
            each = found[part, label]
            assert each["unit"] == data.targets[name].unit
            assert each["values"] == len(chosen)
            worst = int(np.abs(error).argmax())
            assert each["largest_at"] == chosen[worst]
            numbers = {
                "mean_absolute": np.abs(error).mean(),
                "root_mean_square": np.sqrt((error**2).mean()),
                "mean": error.mean(),
                "largest": error[worst],
            }
            for key, value in numbers.items():
                assert abs(each[key] - value) < 1e-12, (part, label, key)


def test_one_part_can_be_chosen(neupol, model, labelled) -> None:
    found = records(neupol("evaluate", labelled, "-m", model, "--json", "--split", "test"))
    assert {part for part, _ in found} == {"test"}


def test_its_own_predictions_have_no_error(neupol, model, labelled, tmp_path) -> None:
    """What predict writes it can read, and the labels are what it said."""
    own = tmp_path / "own.h5"
    assert neupol("predict", labelled, "-m", model, "-o", own).returncode == 0
    found = records(neupol("evaluate", own, "-m", model, "--json"))
    assert set(found) == {("", "U0"), ("", "U0/atom"), ("", "mu")}
    assert all(abs(each["largest"]) < 1e-6 for each in found.values())


def test_forces_are_compared_where_there_are_some(
    neupol, untrained, frames, tmp_path: Path
) -> None:
    model = untrained(**ENERGY)
    atoms = sum(map(len, frames))
    true = np.random.default_rng(2).normal(size=(atoms, 3))
    targets = {
        "energy": hdf5.Target(np.zeros(len(frames)), "eV"),
        "forces": hdf5.Target(true, "eV/Angstrom", "atom"),
    }
    data = write(tmp_path / "f.h5", frames, targets)
    found = records(neupol("evaluate", data, "-m", model, "--json"))
    said = registry.load(str(model)).predict(frames, forces=True)["forces"]
    each = found["", "forces"]
    assert (each["values"], each["unit"]) == (3 * atoms, "eV/Angstrom")
    assert abs(each["mean_absolute"] - np.abs(said - true).mean()) < 1e-6
    row = int(np.abs(said - true).max(1).argmax())
    assert each["largest_at"] == np.searchsorted(np.cumsum([len(f) for f in frames]), row, "right")


def test_a_committee_tells_whether_its_spread_means_something(
    neupol, model, untrained, labelled, frames
) -> None:
    models = (model, untrained(seed=1))
    options = [word for each in models for word in ("-m", each)]
    found = records(neupol("evaluate", labelled, *options, "--json", "--split", "train"))
    chosen = [0, 2, 5]
    some = [frames[k] for k in chosen]
    said = [registry.load(str(each)).predict(some)["mu"] for each in models]
    each = found["train", "mu"]
    spread = np.std(said, axis=0, ddof=1)
    error = np.mean(said, axis=0) - hdf5.read(labelled).targets["mu"].values[chosen]
    assert abs(each["mean_spread"] - spread.mean()) < 1e-12
    assert abs(each["mean_absolute"] - np.abs(error).mean()) < 1e-12
    ranks = [np.argsort(np.argsort(values)) for values in (spread, np.abs(error))]
    assert abs(each["spearman_spread_error"] - np.corrcoef(*ranks)[0, 1]) < 1e-12


def test_a_table_of_values_and_a_picture(neupol, model, labelled, tmp_path: Path) -> None:
    values, drawn = tmp_path / "v.csv", tmp_path / "e.png"
    done = neupol("evaluate", labelled, "-m", model, "-o", values, "--plot", drawn)
    assert done.returncode == 0, done.stderr
    head, *rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert head[:5] == ["file", "split", "label", "unit", "values"]
    assert len(rows) == 9
    assert drawn.read_bytes().startswith(b"\x89PNG")
    with values.open() as stream:
        kept = list(csv.DictReader(stream))
    assert len(kept) == 3 * len(NAMES)
    mu = [row for row in kept if row["label"] == "mu" and row["split"] == "test"]
    assert [row["structure"] for row in mu] == ["1", "3"]
    error = np.mean([abs(float(row["predicted"]) - float(row["reference"])) for row in mu])
    shown = next(row for row in rows if row[1:3] == ["test", "mu"])
    assert shown[5] == f"{error:.4g}"


def test_a_dataset_is_as_good_as_a_text_file(neupol, model, labelled, frames, tmp_path) -> None:
    texts = []
    for number, atoms in enumerate(frames):
        texts.append(tmp_path / f"{number}.xyz")
        atoms.write(texts[-1], format="xyz", fmt="%.17g")
    first = neupol("predict", labelled, "-m", model, "--json").stdout.splitlines()
    second = neupol("predict", *texts, "-m", model, "--json").stdout.splitlines()
    assert len(first) == len(second) == len(frames)
    for one, other in zip(map(json.loads, first), map(json.loads, second), strict=True):
        assert one["formula"] == other["formula"]
        for name, said in one["properties"].items():
            assert abs(said["value"] - other["properties"][name]["value"]) < 1e-5


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--partition", "best"], 65, "no partition 'best'; there are: default"),
        (["--split", "valid"], 65, "no split 'valid'; there are: train, test, rest"),
        (["--part", "test"], 2, "use --split train|valid|test"),
        (["--split", "default"], 2, "name it with --partition default"),
        (["--forces"], 2, "No such option"),
        (["-o", "x.h5"], 2, "the ending is .csv"),
        (["--plot", "x.gif"], 2, "a picture's name ends in"),
        (["--plot", "nowhere/x.png"], 2, "does not exist"),
    ],
)
def test_what_cannot_be_compared(neupol, model, labelled, options, code, message) -> None:
    done = neupol("evaluate", labelled, "-m", model, *options)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_labels_that_do_not_fit_are_named(neupol, model, untrained, labelled, frames, tmp_path):
    other = untrained(targets=("gap",), units=("eV",))
    done = neupol("evaluate", labelled, "-m", other)
    assert done.returncode == 65
    assert "its labels are mu, U0, the models' gap" in done.stderr
    wrong = {"mu": hdf5.Target(np.zeros(len(frames)), "e*Angstrom")}
    data = write(tmp_path / "wrong.h5", frames, wrong)
    done = neupol("evaluate", data, "-m", model)
    assert done.returncode == 65
    assert "mu is in e*Angstrom, the models' in D" in done.stderr


def test_several_splits_have_to_be_chosen_from(neupol, model, labelled, tmp_path, frames) -> None:
    targets = hdf5.read(labelled).targets
    data = write(tmp_path / "two.h5", frames, targets, {"a": SPLIT, "b": SPLIT})
    done = neupol("evaluate", data, "-m", model)
    assert done.returncode == 2
    assert "choose one of its partitions with --partition: a, b" in done.stderr
    assert records(neupol("evaluate", data, "-m", model, "--json", "--partition", "b"))


def test_text_files_are_sent_through_data_first(neupol, model, tmp_path: Path, frames) -> None:
    path = tmp_path / "a.extxyz"
    frames[0].write(path)
    for source in (path, "-"):
        done = neupol("evaluate", source, "-m", model, input="")
        assert done.returncode == 65
        assert "neupol data xyz" in done.stderr


def test_an_unknown_element_stops_or_is_left_out(neupol, model, tmp_path: Path, frames) -> None:
    some = [frames[0], molecule("SiH4"), frames[1]]
    data = write(tmp_path / "si.h5", some, {"mu": hdf5.Target(np.zeros(3), "D")})
    done = neupol("evaluate", data, "-m", model)
    assert (done.returncode, done.stdout) == (65, "")
    assert f"{data}#1: atom 1 is Si" in done.stderr
    done = neupol("evaluate", data, "-m", model, "--json", "--on-error", "skip")
    assert records(done)["", "mu"]["values"] == 2
    assert "(skipped)" in done.stderr


def test_charged_particles_are_no_structures(neupol, model, tmp_path: Path) -> None:
    data = tmp_path / "n.h5"
    made = neupol("data", "nbody", "-o", data, "--train", 2, "--valid", 1, "--test", 1)
    assert made.returncode == 0, made.stderr
    for command in ("predict", "evaluate"):
        done = neupol(command, data, "-m", model)
        assert done.returncode == 65
        assert "nbody" in done.stderr or "charged particles" in done.stderr


def test_nothing_left_to_compare_is_an_error(neupol, model, tmp_path: Path) -> None:
    data = write(tmp_path / "si.h5", [molecule("SiH4")], {"mu": hdf5.Target(np.zeros(1), "D")})
    picture = tmp_path / "p.png"
    done = neupol("evaluate", data, "-m", model, "--on-error", "skip", "--plot", picture)
    assert (done.returncode, done.stdout) == (65, "")
    assert "no structure was left to compare" in done.stderr
    assert not picture.exists()


def test_the_order_of_models_does_not_matter(
    neupol, model, untrained, tmp_path: Path, frames
) -> None:
    """Forces are compared where all models have the same energy, energies where one has it."""
    other = untrained(targets=("homo",), units=("eV",))
    atoms = sum(map(len, frames))
    targets = {
        "U0": hdf5.Target(np.zeros(len(frames)), "eV"),
        "homo": hdf5.Target(np.zeros(len(frames)), "eV"),
        "forces": hdf5.Target(np.zeros((atoms, 3)), "eV/Angstrom", "atom"),
    }
    data = write(tmp_path / "two.h5", frames, targets)
    for order in ((model, other), (other, model)):
        options = [word for each in order for word in ("-m", each)]
        found = records(neupol("evaluate", data, *options, "--json"))
        assert {label for _, label in found} == {"U0", "U0/atom", "homo"}
    found = records(neupol("evaluate", data, "-m", model, "--json"))
    assert ("", "forces") in found


@pytest.mark.parametrize("old", [["--errors"], ["--errors", "--part", "test"], ["--plot", "x.png"]])
def test_old_spellings_say_what_replaces_them(neupol, model, labelled, old) -> None:
    done = neupol("predict", labelled, "-m", model, *old)
    assert done.returncode == 2 and not done.stdout
    assert "use neupol evaluate" in done.stderr and done.stderr.count("\n") == 1
