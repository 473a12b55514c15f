"""neupol fit charge3net, as a user runs it, on densities of spherical atoms."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace

import ase
import numpy as np
import pytest
import torch

from neupol_cli import registry
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import hdf5
from neupol_cli.io.density_writer import DensityWriter
from neupol_cli.training import calibrating
from neupol_cli.training.calibrating import errors_by_atom, totals
from neupol_cli.training.density_task import METRIC, SPIN_METRIC, Draw, Grids, density_task
from neupol_cli.training.request import Request
from tests.warm import neupol

SMALL = {"mul": 12, "lmax": 1, "layers": 1, "embedding": 4, "cutoff": 3.0}
FITTED = calibrating.fitted
WIDTHS = {1: 1.5, 8: 3.0}  # exponents, 1/Angstrom^2


def spherical(atoms, points):
    """A density that a promolecule can nearly make."""
    apart = np.linalg.norm(points[:, None] - atoms.positions[None], axis=2)
    exponents = np.array([WIDTHS[z] for z in atoms.numbers])
    return (atoms.numbers * np.exp(-exponents * apart**2)).sum(1)


def write(path, spin=False, periodic=False, valid=2):
    rng = np.random.default_rng(0)
    with DensityWriter(path, "made up", spin=spin) as writer:
        for _ in range(10 + valid):
            positions = np.array([[0, 0, 0], [0.95, 0, 0], [-0.3, 0.9, 0]]) + rng.normal(
                0, 0.05, (3, 3)
            )
            atoms = ase.Atoms("OHH", positions, cell=[6.5, 6.0, 7.0], pbc=periodic)
            shape, step, origin = (
                (9, 8, 10),
                np.diag([0.7, 0.7, 0.65]),
                np.array([-3.0, -2.5, -3.2]),
            )
            index = np.stack(np.unravel_index(np.arange(np.prod(shape)), shape), 1)
            values = spherical(atoms, origin + index @ step).reshape(shape)
            if spin:
                values = np.stack((values, 0.1 * values), -1)
            writer.add(atoms, values, origin, step)
        ends = np.split(np.arange(10 + valid), [8, 8 + valid])
        writer.split("default", dict(zip(("train", "valid", "test"), ends, strict=True)))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("densities") / "d.h5")


def sets(**more):
    return [f"--set={key}={value}" for key, value in (SMALL | more).items()]


def test_fit_learns_densities_and_its_weights_predict_them(data, tmp_path):
    words = (
        "fit",
        "charge3net",
        data,
        "-o",
        "run",
        "--steps",
        30,
        "--json",
        "--schedule",
        "cosine",
    )
    done = neupol(*words, *sets(promolecule=6, probes=60, sampling_exponent=0.5), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    error = result["test"][METRIC]
    assert error["unit"] == "%" and error["value"] < 10
    model = registry.load(tmp_path / "run")
    dataset = hdf5.read(data)
    first = int(dataset.splits["default"]["test"][0])
    rows = slice(dataset.offsets[first], dataset.offsets[first + 1])
    atoms = ase.Atoms(dataset.numbers[rows], dataset.positions[rows])
    truth = dataset.density.values(first)
    places = torch.from_numpy(dataset.density.points(first, np.arange(len(truth))))
    found = model.density(model.atom_features(atoms), places).numpy()
    assert abs(found - truth).sum() < 0.12 * abs(truth).sum()


def test_fit_tells_how_far_off_densities_are_around_each_atom(tmp_path):
    data = write(tmp_path / "d.h5", valid=40)
    fit = ("fit", "charge3net", data, "-o", "run", "--steps", 20)
    done = neupol(*fit, *sets(promolecule=6, probes=60), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "w.xyz").write_text("3\n\nO 0 0 0\nH 0.95 0 0\nH -0.3 0.9 0\n")
    words = ("density", "w.xyz", "-m", "run", "--spacing", "0.4", "-o", "w.h5")
    done = neupol(*words, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["uncertainty_atoms"]
    assert len(told) == 3 and min(told) > 0
    column = hdf5.read(tmp_path / "w.h5").targets["density_uncertainty"]
    assert (column.per, column.unit) == ("atom", "e")
    np.testing.assert_allclose(column.values, told, rtol=1e-6, atol=0)
    worst = int(np.argmax(told))
    said = f"largest around atom {worst + 1} ({'OHH'[worst]}): below {max(told):.2g} electrons"
    assert said in neupol(*words, cwd=tmp_path).stdout
    # Calibrated on these: the scale keeps 0.9 of them, give or take what the folds learnt.
    model, dataset = registry.load_density(str(tmp_path / "run")), hdf5.read(data)
    held = [
        errors_by_atom(model, dataset, int(k))
        <= model.atom_uncertainty(model.atom_features(dataset.atoms(int(k))))
        for k in dataset.splits["default"]["valid"]
    ]
    assert 0.85 <= float(torch.cat(held).double().mean()) <= 0.97


def test_of_many_atoms_some_structures_are_compared(tmp_path, monkeypatch):
    """Nine atoms are three structures, of which two are compared whole."""
    dataset = hdf5.read(write(tmp_path / "d.h5"))
    task = density_task("charge3net", dataset, Request(config=SMALL))
    told, seen = [], []
    monkeypatch.setattr(calibrating, "ATOMS", 8)
    monkeypatch.setattr(calibrating, "GRIDS", 2)
    monkeypatch.setattr(calibrating, "fitted", lambda *words: told.append(words) or FITTED(*words))
    known, unseen, errors = np.arange(6), np.arange(11, 5, -1), torch.rand(6, 1).double()
    calibrating.of_densities(task.model, dataset, known, unseen, errors, lambda: seen.append(1))
    assert [len(rows) for rows in told[0][:3]] == [6, 6, 6]
    atoms, compared, wrong, owners = told[1]
    assert (len(atoms), owners.tolist()) == (9, [0, 0, 0, 1, 1, 1])
    for k, index in enumerate((11, 10)):
        rows = slice(3 * k, 3 * k + 3)
        features = task.model.atom_features(dataset.atoms(index))
        np.testing.assert_array_equal(compared[rows], task.model.described_atoms(features))
        expected = errors_by_atom(task.model, dataset, index)
        np.testing.assert_array_equal(wrong[rows, 0], expected)
    assert len(seen) == 6 + 6 + 2


def test_errors_of_spin_are_told_beside_the_totals(tmp_path):
    dataset = hdf5.read(write(tmp_path / "d.h5", spin=True))
    task = density_task("charge3net", dataset, Request(config=SMALL))
    task.splits["test"] = np.array([3, 4])
    wrong, whole = np.zeros(2), np.zeros(2)
    for k in (3, 4):
        truth = dataset.density.values(k).astype(float)  # (P, 2)
        places = torch.from_numpy(dataset.density.points(k, np.arange(len(truth))))
        with torch.no_grad():
            features = task.model.atom_features(dataset.atoms(k))
            found = task.model.density(features, places).double().numpy()
        wrong += np.abs(found - truth).sum(axis=0)
        whole += np.abs(truth).sum(axis=0)
    told = task.evaluate("test", task.model, lambda: None)
    expected = dict(zip((METRIC, SPIN_METRIC), 100 * wrong / whole, strict=True))
    assert told == pytest.approx(expected, rel=1e-5, abs=0)
    assert task.units == {METRIC: "%", SPIN_METRIC: "%"}
    plain = density_task("charge3net", dataset, Request(config=SMALL | {"spin": False}))
    plain.splits["test"] = np.array([3])
    assert list(plain.evaluate("test", plain.model, lambda: None)) == [METRIC]


def test_too_few_unseen_densities_tell_nothing(tmp_path, data):
    done = neupol("fit", "charge3net", data, "-o", "run", "--steps", 2, *sets(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    model = registry.load_density(str(tmp_path / "run"))
    assert model.calibration is None and model.atom_calibration is None


@pytest.mark.parametrize("spin", [False, True])
@pytest.mark.parametrize("periodic", [False, True])
def test_errors_around_atoms_add_up_to_the_whole_one(tmp_path, spin, periodic):
    dataset = hdf5.read(write(tmp_path / "d.h5", spin, periodic))
    task = density_task("charge3net", dataset, Request(config=SMALL))
    task.splits["test"] = np.array([3])
    eps = task.evaluate("test", task.model, lambda: None)[METRIC] / 100
    errors = errors_by_atom(task.model, dataset, 3)
    truth = totals(dataset.density.values(3)).astype(float)
    whole = eps * np.abs(truth).sum() * np.linalg.det(dataset.density.step[3])
    assert errors.shape == (3,) and float(errors.min()) > 0
    np.testing.assert_allclose(errors.sum(), whole, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"polarization": "movable"},
        {"polarization": "late"},
        {"encoding": "learned", "bins": 12},
        {"spin": True},
        {"promolecule": 6},
    ],
)
@pytest.mark.parametrize("periodic", [False, True])
def test_a_few_steps_lower_the_loss(tmp_path, options, periodic):
    path = write(tmp_path / "d.h5", options.get("spin", False), periodic)
    request = Request(
        config=SMALL | {"probes": 40} | options, smoothness=0.01 * ("bins" in options)
    )
    task = density_task("charge3net", hdf5.read(path), request)
    optimizer = torch.optim.Adam(task.model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    before = task.evaluate("valid", task.model, lambda: None)[METRIC]
    for step in range(40):
        loss, _ = task.loss(torch.arange(8), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert np.isfinite(loss.item()), step
    after = task.evaluate("valid", task.model, lambda: None)[METRIC]
    assert after < before
    # The whole grid by tiles, and the fixed points by batches, are the same points here.
    valid = task.evaluate("valid", task.model, lambda: None)[METRIC]
    task.splits["test"] = task.splits["valid"]
    whole = task.evaluate("test", task.model, lambda: None)[METRIC]
    assert abs(valid - whole) < 1e-4 * whole


def test_the_header_says_what_an_atom_brings(data):
    dataset = hdf5.read(data)
    electrons = hdf5.Target(np.full(dataset.size, 8.0), "e")
    known = {"electrons": {1: 1.0, 8: 6.0}}
    dataset = replace(dataset, targets={"electrons": electrons}, references=known)
    task = density_task("charge3net", dataset, Request(config=SMALL))
    assert task.meta["valence"] == {"H": 1.0, "O": 6.0}
    assert task.meta["targets"] == {"density": "e/Angstrom^3"}


def test_focused_draws_are_unbiased(data):
    task = density_task("charge3net", hdf5.read(data), Request(config=SMALL))
    chosen = task.train[:2]
    truth = [task.grids.values[a:b].mean().item() for a, b in ((0, 720), (720, 1440))]
    for exponent in (0.0, 0.5, 1.0):
        rows, weights = Draw(task.grids, exponent)(chosen, 20000, torch.Generator().manual_seed(1))
        values = task.grids.values[rows]
        values = values if weights is None else values * weights
        spread = values.std(1) / 20000**0.5
        assert rows.min() >= 0 and rows[0].max() < 720 <= rows[1].min() and rows.max() < 1440
        for k in range(2):
            assert abs(values[k].mean().item() - truth[k]) < 5 * spread[k].item()


def test_thinned_grids_keep_their_places(data):
    dataset = hdf5.read(data)
    like = torch.zeros(1, dtype=torch.float64)
    thin = Grids.of(dataset.density, np.array([0, 3]), 50, 0, like)
    assert len(thin.values) == 100
    rows = torch.arange(50, 100)[None]
    places = thin.points(torch.tensor([3]), rows)[0]
    held = thin.places[50:].numpy()
    expected = dataset.density.points(3, held)
    np.testing.assert_allclose(places.numpy(), expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(thin.values[50:].float().numpy(), dataset.density.values(3)[held])


@pytest.mark.parametrize("spin", [False, True])
def test_held_values_are_those_of_the_file_and_in_memory_once(tmp_path, spin):
    """One array is filled: no indices of all points, no second copy. Thinning draws as it did."""
    shape = (12, 20, 30, 50, 2)[: 4 + spin]
    values = np.random.default_rng(0).normal(size=shape).astype("float32")
    with DensityWriter(tmp_path / "d.h5", "made up", spin=spin) as writer:
        for each in values:
            writer.add(ase.Atoms("H"), each, np.zeros(3), np.eye(3) * 0.1)
    density = hdf5.read(tmp_path / "d.h5").density
    points, chosen = 30_000, np.array([3, 0, 1, 11, 4, 5, 6, 7, 9, 8])
    like, order = torch.zeros(1), np.sort(chosen)
    flat = values.reshape(12, points, *shape[4:])
    tracemalloc.start()
    grids = Grids.of(density, chosen, points, 7, like)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.3 * grids.values.numpy().nbytes
    assert grids.places is None
    np.testing.assert_array_equal(grids.values, flat[order].reshape(grids.values.shape))
    thin, generator = Grids.of(density, chosen, 50, 7, like), np.random.default_rng(7)
    for k, index in enumerate(order):
        places = np.sort(generator.choice(points, 50, replace=False))
        np.testing.assert_array_equal(thin.places[50 * k : 50 * k + 50], places)
        np.testing.assert_array_equal(thin.values[50 * k : 50 * k + 50], flat[index, places])


def test_what_does_not_fit_is_said(data):
    dataset = hdf5.read(data)
    with pytest.raises(InputError, match="elements"):
        density_task("charge3net", dataset, Request(config=SMALL | {"species": [1, 6]}))
    with pytest.raises(InputError, match="spin"):
        density_task("charge3net", dataset, Request(config=SMALL | {"spin": True}))
    with pytest.raises(UsageError, match="target"):
        density_task("charge3net", dataset, Request(config=SMALL, targets=("energy",)))
    with pytest.raises(UsageError, match="l1, l2"):
        density_task("charge3net", dataset, Request(config=SMALL, loss="huber"))


def test_the_squared_loss_is_the_mean_of_squares(data):
    chosen, losses = torch.arange(2), {}
    for name in ("l1", "l2"):
        task = density_task("charge3net", hdf5.read(data), Request(config=SMALL, loss=name))
        generator = torch.Generator().manual_seed(0)
        losses[name] = float(task.loss(chosen, generator)[0].detach())
        rows, _ = task.draw(
            task.train[chosen], task.config.probes, torch.Generator().manual_seed(0)
        )
        graph, _ = task.arrays.graph(task.train[chosen])
        errors = task._errors(task.model, task.grids, task.train[chosen], rows, graph)
        expected = {"l1": errors.abs().mean(), "l2": errors.square().mean()}[name]
        assert losses[name] == pytest.approx(float(expected.detach()), rel=1e-6)
    assert losses["l1"] != losses["l2"]
