"""``neupol density`` in a process of its own: pipes, kills, full disks, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from neupol_cli import app, checkpoint, registry
from neupol_cli.density import measures, on_grid, options
from neupol_cli.density.on_grid import GridChoice, check_size, parse_counts, parse_memory
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import volumetric
from neupol_cli.io.volumetric import Grid, Volume
from tests.warm import Process, neupol, wait_for

SPARSE = {
    "one atom": "1\nH\nH 0 0 0\n",
    "two far apart": "2\nN2\nN 0 0 0\nN 0 0 4.1\n",
    "one in a cell": '1\nLattice="10 0 0 0 10 0 0 0 10" pbc="T T T"\nO 1 2 3\n',
}
WATER = "3\nwater\nO 0 0 0.1173\nH 0 0.7572 -0.4692\nH 0 -0.7572 -0.4692\n"


@pytest.fixture(scope="module")
def checkpoint_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with random weights, saved as `fit` saves one."""
    torch.manual_seed(0)
    config = {"species": (1, 6, 8), "mul": 16, "lmax": 1, "layers": 2, "hidden": 8}
    network = registry.build("charge3net", config)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    meta = {"targets": {"density": "e/Angstrom^3"}, "valence": {"H": 1, "C": 4, "O": 6}}
    checkpoint.save(path, "charge3net", network, meta)
    return path


def test_a_saved_network_gives_a_cube_from_a_pipe(checkpoint_file: Path, tmp_path: Path) -> None:
    call = ["density", "-", "-m", str(checkpoint_file), "-o", "rho.cube", "--json"]
    found = neupol(*call, "--spacing", "0.4", "--dtype", "float64", cwd=tmp_path, input=WATER)
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout)
    back = volumetric.read(tmp_path / "rho.cube")
    assert report["electrons_sum"] == pytest.approx(back.electrons, rel=0, abs=1e-6)
    model = registry.load(str(checkpoint_file), "cpu", torch.float64)
    probes = torch.from_numpy(back.grid.points(4000, 4200))
    expected = model.density(model.atom_features(back.atoms), probes)
    np.testing.assert_allclose(
        back.values.reshape(-1)[4000:4200], expected.numpy(), rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("structure", SPARSE.values(), ids=SPARSE)
def test_atoms_without_neighbours_have_a_density(structure: str, tmp_path: Path) -> None:
    """By the bundled model: no atom reaches another one there."""
    call = ["density", "-", "-o", "h.cube", "--spacing", "0.5", "--json"]
    made = neupol(*call, cwd=tmp_path, input=structure)
    assert made.returncode == 0, made.stderr
    assert np.isfinite(json.loads(made.stdout)["electrons_sum"])
    values = volumetric.read(tmp_path / "h.cube").values
    assert np.isfinite(values).all() and values.max() > 0


def test_a_bad_frame_is_skipped_and_the_others_survive(
    checkpoint_file: Path, tmp_path: Path
) -> None:
    bad = ["1\nno such element\nQq 0 0 0\n", "1\nnever seen\nU 0 0 0\n", "2\n\nH 0 0 0\nH 0 0 0\n"]
    batch = "".join([SPARSE["one atom"], *bad, WATER])
    call = ["density", "-", "-m", str(checkpoint_file), "-o", "rho.h5", "--spacing", "0.6"]
    assert neupol(*call, cwd=tmp_path, input=batch).returncode == 65
    assert not list(tmp_path.iterdir())
    made = neupol(*call, "--on-error", "skip", "--json", cwd=tmp_path, input=batch)
    assert made.returncode == 0, made.stderr
    formulas = [json.loads(line)["formula"] for line in made.stdout.splitlines()]
    assert formulas == ["H", "H2O"] and made.stderr.count("(skipped)") == len(bad)
    assert len(list(volumetric.entries(tmp_path / "rho.h5"))) == 2


def test_killed_while_writing_it_leaves_the_earlier_file(
    checkpoint_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "water.xyz").write_text(WATER)
    (tmp_path / "rho.cube").write_text("the earlier file")
    command = ["density", "water.xyz", "-o", "rho.cube", "-m", str(checkpoint_file)]
    command += ["--margin", "30", "--grid"]  # mostly vacuum: soon computed, and long to write
    for number in (signal.SIGTERM, signal.SIGKILL):
        running = Process("-m", "neupol_cli", *command, "150,120,120", cwd=tmp_path)
        partial = tmp_path / "rho.cube.partial"
        wait_for(partial.exists, running)
        running.send_signal(number)
        assert running.wait() == (143 if number == signal.SIGTERM else -9)
        assert (tmp_path / "rho.cube").read_text() == "the earlier file"
    found = neupol(*command, "9,9,9", cwd=tmp_path)  # a dead process' lock does not block
    assert found.returncode == 0, found.stderr
    assert not partial.exists()


def test_a_full_disk_is_told_and_the_earlier_file_is_whole(
    checkpoint_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "water.xyz").write_text(WATER)
    for name in ("rho.cube", "rho.h5"):
        (tmp_path / name).write_text("the earlier file")
        command = ["density", "water.xyz", "-o", name, "-m", checkpoint_file, "--spacing", "0.4"]
        found = neupol(*command, cwd=tmp_path, limits={"FSIZE": 6000})
        assert found.returncode == 74, (name, found.stderr)
        last = found.stderr.strip().splitlines()[-1]
        assert name in last and "unchanged" in last
        assert (tmp_path / name).read_text() == "the earlier file"
        assert not list(tmp_path.glob("*.partial"))


def test_an_absurd_grid_is_refused_before_it_is_made(tmp_path: Path) -> None:
    (tmp_path / "water.xyz").write_text(WATER)
    found = neupol(
        "density", "water.xyz", "-o", "rho.cube", "--grid", "10000,10000,10000", cwd=tmp_path
    )
    assert found.returncode == 65 and found.stderr.count("\n") == 1
    assert "= 1e+12 points" in found.stderr and "2.5e+08" in found.stderr and "2GB" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-o", "rho.txt"], "must end in .cube"),
        (["-o", "nowhere/rho.cube"], "does not exist"),
        (["-o", "rho.cube", "--grid", "10,10"], "three counts"),
        (["-o", "rho.cube", "--grid", "10,10,0"], "three counts"),
        (["-o", "rho.cube", "--spacing", "-1"], "--spacing"),
        (["-o", "rho.cube", "--spacing", "1", "--grid", "1,1,1"], "choose one of"),
        (["-o", "rho.cube", "--memory", "lots"], "--memory"),
        (["-o", "rho.cube", "--on-error", "panic"], "'fail', 'skip'"),
        (["-o", "rho.cube", "--difference", "d.cube"], "--reference"),
        (["-o", "rho.cube", "--dtype", "float16"], "--dtype"),
        (["-o", "rho.cube", "-m", "nothing-of-that-name"], "nothing-of-that-name"),
    ],
)
def test_what_does_not_fit_together_is_one_line(
    arguments: list[str], says: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    (tmp_path / "water.xyz").write_text(WATER)
    monkeypatch.chdir(tmp_path)
    code = app._run(["density", "water.xyz", *arguments])
    err = capsys.readouterr().err
    assert code in (2, 65) and err.count("\n") == 1 and says in err
    assert os.listdir(tmp_path) == ["water.xyz"]


@pytest.mark.parametrize(
    ("words", "instead"),
    [
        (["--analyse", "rho.h5", "-m", "density"], "density-compare"),
        (["water.xyz", "-o", "iri.cube", "--descriptor", "iri"], "density-descriptor"),
    ],
)
def test_an_option_of_old_says_what_replaces_it(words: list[str], instead: str, capsys) -> None:
    assert app._run(["density", *words]) == 2
    err = capsys.readouterr().err
    assert f"is no longer an option; use neupol {instead}" in err and err.count("\n") == 1


def test_sizes_are_read() -> None:
    assert parse_memory("2GB") == 2_000_000_000 and parse_memory("1.5 GiB") == 3 << 29
    assert parse_memory("500mb") == 500_000_000 and parse_memory("64MB") == 64_000_000
    assert parse_counts("10,20,30") == (10, 20, 30) == parse_counts("10x20x30")
    with pytest.raises(UsageError, match="at least 64MB"):
        parse_memory("1KB")
    grid = Grid([0, 0, 0], np.eye(3), (100, 100, 100))
    assert check_size(grid, 1 << 30, 4) == (1 << 30) - 4_000_000
    with pytest.raises(UsageError, match="choose one"):
        GridChoice(spacing=0.2, counts=(1, 1, 1))
    with pytest.raises(InputError, match="grids differ"):
        measures.check_same_grid(
            Volume(Atoms("H"), grid, np.zeros(grid.shape)),
            Volume(Atoms("H"), Grid([0, 0, 1], np.eye(3), grid.shape), np.zeros(grid.shape)),
        )


@pytest.mark.parametrize(
    ("option", "value"),
    [(options.SpacingOption, on_grid.SPACING), (options.MarginOption, on_grid.MARGIN)],
)
def test_the_help_says_what_is_taken_where_nothing_is_said(option: Any, value: float) -> None:
    assert f"(default: {value})" in option.__metadata__[0].help
