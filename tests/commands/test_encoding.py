"""neupol encoding as a user runs it: trained, measured, compared, drawn, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[1] / "data" / "ethanol_80.npz"
SMALL = {"encoding": "learned", "encoding_size": 12, "encoding_bins": 20}
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def pair(untrained: Callable[..., Path]) -> list[Path]:
    return [untrained("egnn", seed=seed, **SMALL) for seed in (0, 1)]


def test_a_trained_network_is_measured(neupol: Run, tmp_path: Path):
    data, run = tmp_path / "ethanol.h5", tmp_path / "smooth"
    assert neupol("data", "md17", DATA, "-o", data, "--partition", "60,10,10").returncode == 0
    sizes = [word for key in ("hidden=8", "layers=2", "encoding_size=6") for word in ("--set", key)]
    trained = neupol(
        "fit", "egnn", data, "-o", run, "--target", "energy", "--encoding", "learned",
        "--smoothness", "0.1", "--steps", "20", "--batch-size", "8", *sizes,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    done = neupol("encoding", run)
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("smooth"))
    assert "energy" in row
    assert "distance, 6 x 64 bins" in row
    assert all(0 <= float(number) <= 1 for number in row.split()[-4:])
    assert "{x, x^2, x^3}" in done.stdout
    assert "similarity" not in done.stdout


def test_json_of_two_checkpoints(neupol: Run, pair: list[Path], tmp_path: Path):
    done = neupol("encoding", *pair, "--json", "-o", tmp_path / "f.json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads((tmp_path / "f.json").read_text())
    first, second = found["checkpoints"]
    assert first["label"] == pair[0].stem
    assert first["targets"] == ["U0", "mu"]
    (tables,) = second["tables"]
    assert (tables["bins"], tables["size"], len(tables["layers"])) == (20, 12, 2)
    assert len(tables["profile"]) == 20
    assert len(tables["curves"]) == 10
    assert len(tables["components"]) == 2
    matrix = found["similarity"]["matrix"]
    assert matrix[0][1] == pytest.approx(matrix[1][0], abs=1e-12)
    assert 0 < matrix[0][1] < 1
    assert found["polynomial"]["bins"] == 20


def test_tables_go_to_stdout_unless_a_file_is_named(neupol: Run, pair: list[Path], tmp_path: Path):
    table = neupol("encoding", *pair)
    assert table.stdout.count(pair[0].stem) == 3  # a row, and a row and a column of similarities
    quiet = neupol("encoding", *pair, "-o", tmp_path / "f.json")
    assert (quiet.returncode, quiet.stdout) == (0, "")


def test_pictures(neupol: Run, pair: list[Path], untrained: Callable[..., Path], tmp_path: Path):
    sizes = {"triplet": 4, "basis": 2, "output": 4, "encoding": "learned", "encoding_size": 3}
    angles = untrained("dimenet", **sizes)
    picture = tmp_path / "page.png"
    done = neupol("encoding", *pair, angles, "--plot", picture, "--layer", "2")
    assert done.returncode == 0, done.stderr
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 50_000
    assert "angle, 7 x 64 bins" in done.stdout
    assert not list(tmp_path.glob("*.partial"))


def test_checkpoints_without_tables_are_refused(neupol: Run, untrained: Callable[..., Path]):
    plain = untrained("egnn", encoding="bessel")
    done = neupol("encoding", plain)
    assert done.returncode == 65
    assert done.stderr == (
        f"neupol: {plain}: has no learned encoding; train with neupol fit --encoding learned\n"
    )


def test_wrong_names_are_refused_before_work(neupol: Run, pair: list[Path]):
    picture = neupol("encoding", *pair, "--plot", "page.jpeg")
    assert picture.returncode == 2
    assert ".png, .pdf, .svg" in picture.stderr
    missing = neupol("encoding", "no-such-run")
    assert missing.returncode == 65
    assert "no-such-run" in missing.stderr
