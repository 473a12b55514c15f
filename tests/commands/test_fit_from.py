"""neupol fit --from: training goes on from a bundled model, a run or a checkpoint."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neupol_cli import checkpoint
from neupol_cli.io import hdf5
from tests.warm import neupol

DATA = Path(__file__).parents[1] / "data" / "ethanol_80.npz"
NETWORK = ["--set", "hidden=8", "--set", "layers=2", "--default-dtype", "float64"]
WATER = np.array([[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]])  # O H H, Angstrom
COMMON = ["--batch-size", "4", "--valid-every", "2", "--default-dtype", "float64", "--seed", "3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "ethanol.h5"
    assert neupol("data", "md17", DATA, "-o", path, "--partition", "56,12,12").returncode == 0
    return path


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    words = ["--target", "energy", "--steps", "3", *NETWORK]
    assert neupol("fit", "egnn", data, "-o", run, *words).returncode == 0
    return run


def fit(*words: str | Path) -> subprocess.CompletedProcess[str]:
    result = neupol("fit", *words)
    assert result.returncode == 0, result.stderr
    return result


def lines(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without times."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def test_it_begins_where_the_other_ended(data: Path, trained: Path, tmp_path: Path) -> None:
    fit(data, "--from", trained, "-o", tmp_path / "on", "--target", "energy", "--steps", "2",
        "--references", "none", *COMMON)  # fmt: skip
    before, _ = checkpoint.load_file(trained / "best.safetensors")
    first = lines(tmp_path / "on")[0]
    assert first["step"] == 0
    assert first["valid"]["energy"] == pytest.approx(before["valid"]["energy"]["value"], abs=1e-9)
    header, _ = checkpoint.load_file(tmp_path / "on" / "best.safetensors")
    assert header["start"] == {"source": trained.name, "sha256": before["sha256"]}  # type: ignore[typeddict-item]
    assert str(trained) not in json.dumps(header)  # no path of this machine
    assert f"source = {trained.name}" in neupol("models", tmp_path / "on").stdout


def test_another_zero_of_energy_is_taken_up_at_once(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    """A method whose atoms have other energies: references are refitted to what is left over."""
    shifted = hdf5.read(data)
    energies = shifted.targets["energy"].values
    energies += 123.0
    hdf5.write(tmp_path / "shifted.h5", shifted)
    fit(tmp_path / "shifted.h5", "--from", trained, "-o", tmp_path / "on", "--target", "energy",
        "--steps", "1", *COMMON)  # fmt: skip
    before, _ = checkpoint.load_file(trained / "best.safetensors")
    error = lines(tmp_path / "on")[0]["valid"]["energy"]
    assert error < 1.5 * before["valid"]["energy"]["value"] < 1.0  # eV; not 123


def test_a_run_needs_nothing_else_to_go_on(data: Path, trained: Path, tmp_path: Path) -> None:
    words = ["--target", "energy,forces", "--freeze", "layers.0", "--layer-lr", "heads=0.1"]
    source = shutil.copytree(trained, tmp_path / "source")
    fit(data, "--from", source, "-o", tmp_path / "a", "--steps", "4", *words, *COMMON)
    fit(data, "--from", source, "-o", tmp_path / "b", "--steps", "2", *words, *COMMON)
    shutil.rmtree(source)
    fit("--resume", "-o", tmp_path / "b", "--steps", "4")
    whole, broken = (
        checkpoint.load_file(tmp_path / run / "last.safetensors")[1] for run in ("a", "b")
    )
    # The rate follows the limit, which was another one for the first two steps.
    assert whole.keys() == broken.keys()
    assert lines(tmp_path / "a")[0] == lines(tmp_path / "b")[0]
    _, began = checkpoint.load_file(trained / "best.safetensors")
    frozen = [name for name in whole if name.startswith("backbone.layers.0.")]
    moved = [name for name in whole if name.startswith("backbone.layers.1.")]
    for run in (whole, broken):
        assert frozen and all(torch.equal(run[name], began[name]) for name in frozen)
        assert moved and not any(torch.equal(run[name], began[name]) for name in moved)


def test_the_rate_of_a_part(data: Path, trained: Path, tmp_path: Path) -> None:
    """Adam's first step is as long as the learning rate, whatever the gradient."""
    rates = ["--lr", "0.001", "--schedule", "constant", "--layer-lr", "layers.*=0.01"]
    words = ["--target", "energy", "--steps", "1", *rates, *COMMON]
    fit(data, "--from", trained, "-o", tmp_path / "on", *words)
    began, now = (
        checkpoint.load_file(run / f"{name}.safetensors")[1]
        for run, name in ((trained, "best"), (tmp_path / "on", "last"))
    )

    def step(part: str) -> float:
        names = [name for name in now if name.startswith(f"backbone.{part}")]
        return max(float((now[name] - began[name]).abs().max()) for name in names)

    assert step("heads") == pytest.approx(1e-3, rel=1e-4)
    assert step("layers") == pytest.approx(1e-5, rel=1e-4)


def test_a_bundled_model_learns_another_target(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(20):
        x = WATER + rng.normal(0, 0.05, (3, 3))
        atoms = "".join(f"{s} {a} {b} {c}\n" for s, (a, b, c) in zip("OHH", x, strict=True))
        rows.append(f"3\nProperties=species:S:1:pos:R:3 tension={x[0, 2]:.6f}\n{atoms}")
    (tmp_path / "w.xyz").write_text("".join(rows))
    labels = ["--target", "tension=eV"]
    done = neupol("data", "xyz", tmp_path / "w.xyz", "-o", tmp_path / "w.h5", *labels)
    assert done.returncode == 0, done.stderr
    fit(tmp_path / "w.h5", "--from", "qm9", "-o", tmp_path / "on", "--steps", "1", *COMMON)
    header, tensors = checkpoint.load_file(tmp_path / "on" / "last.safetensors")
    assert header["model"] == "painn" and list(header["targets"]) == ["tension"]
    assert tensors["reference"].shape == (1, 5)  # qm9's elements keep their places


def test_data_alone_is_data(data: Path, trained: Path, tmp_path: Path) -> None:
    """With --from and with --resume there is no MODEL to give."""
    words = ["--target", "energy", "--steps", "1", *COMMON]
    began = fit(data, "--from", trained, "-o", tmp_path / "r", *words)
    assert f"from {trained.name}" in began.stderr and "from the beginning" not in began.stderr
    moved = Path(shutil.copy(data, tmp_path / "moved.h5"))
    went_on = fit(moved, "--resume", "-o", tmp_path / "r", "--steps", "2")
    assert f"data: {moved}" in went_on.stderr
    other = neupol("fit", "--resume", "-o", tmp_path / "r", "--from", "qm9")
    assert other.returncode == 2 and f"begun with --from {trained}" in other.stderr


def test_a_killed_beginning_is_no_run(data: Path, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "start.safetensors.partial").write_text("half")
    fit(
        data, "--from", trained, "-o", tmp_path / "r", "--target", "energy", "--steps", "1", *COMMON
    )


def test_nothing_that_learns(data: Path, tmp_path: Path) -> None:
    """All that is left is what frozen points never use."""
    frozen = ["embedding", "heads", "layers.1", "layers.0.[aefsu]*"]
    words = [word for part in frozen for word in ("--freeze", part)]
    points = ["--polarization", "frozen", "--target", "energy", *NETWORK]
    done = neupol("fit", "egnn", data, "-o", tmp_path / "r", "--steps", "1", *points, *words)
    assert done.returncode == 2
    assert "nothing that is left to learn reaches the loss" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from", "nothing"], "neither a file, a run folder nor a bundled model"),
        (["--scale", "std"], "--scale: what --from knows already keeps the scale that it has"),
        (
            ["--set", "hidden=16"],
            "its backbone.embedding.weight is (8, 9), not (16, 9)",
        ),
        (["--freeze", "layer.0"], "--freeze layer.0: no such part; there are embedding, heads.0"),
        (["--layer-lr", "heads"], "--layer-lr heads: write KEY=VALUE"),
        (["--layer-lr", "tails=2"], "--layer-lr tails: no such part"),
    ],
)
def test_wrong_requests(
    data: Path, trained: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    start = [] if "--from" in words else ["--from", trained]
    result = neupol("fit", data, *start, "-o", tmp_path / "r", "--target", "energy", *words)
    assert result.returncode in (2, 65, 66) and said in result.stderr
    assert len(result.stderr.splitlines()) == 1 and not (tmp_path / "r").exists()


def test_another_network_is_refused(data: Path, trained: Path, tmp_path: Path) -> None:
    result = neupol("fit", "dimenet", data, "--from", trained, "-o", tmp_path / "r")
    assert (
        result.returncode == 2
        and f"--from {trained.name} is egnn: leave dimenet out" in result.stderr
    )
