"""neupol fit as a user runs it: trains, resumes after any end, and says what is wrong."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from neupol_cli import checkpoint
from neupol_cli.training.events import NAMES
from tests.warm import Process, neupol, wait_for

ROOT = Path(__file__).parents[2]
NETWORK = ["--set", "hidden=8", "--set", "layers=2", "--default-dtype", "float64"]
TRAINING = ["--batch-size", "4", "--valid-every", "40", "--ema", "0.9"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "ethanol.h5"
    source = ROOT / "tests" / "data" / "ethanol_80.npz"
    assert neupol("data", "md17", source, "-o", path, "--partition", "56,12,12").returncode == 0
    return path


def fit(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return neupol("fit", *words)


def begun(*words: str | Path) -> Process:
    return Process("-m", "neupol_cli", "fit", *words)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps that has come to its end."""
    run = tmp_path_factory.mktemp("trained") / "run"
    done = fit("egnn", data, "-o", run, "--target", "energy", "--steps", "2", *NETWORK)
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def one_line(result: subprocess.CompletedProcess[str], code: int) -> str:
    """The message of a command that failed with ``code``, in one line and without a traceback."""
    assert result.returncode == code, result.stderr
    lines = result.stderr.strip().splitlines()
    assert lines and lines[-1].startswith("neupol: ") and "Traceback" not in result.stderr
    return lines[-1]


def test_fit_leaves_a_whole_run(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["--epochs", "3", "--target", "energy,forces", "--encoding", "learned"]
    words += ["--smoothness", "0.1", "--set", "cutoff=5", "--json"]
    result = fit("egnn", data, "-o", run, *words, *NETWORK, "--batch-size", "8")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["steps"] == 21 and answer["run"] == str(run)
    assert (
        answer["test"]["forces"]["unit"] == "eV/Angstrom" and answer["test"]["energy"]["value"] > 0
    )
    names = {p.name for p in run.iterdir() if not fnmatch(p.name, NAMES)}
    files = {"best.safetensors", "last.safetensors", "state.safetensors", "config.json"}
    assert names == files | {"metrics.jsonl", "loss.png"}
    meta, tensors = checkpoint.load_file(run / "best.safetensors")
    assert meta["domain"]["structures"] == 56 and meta["domain"]["atoms"] == [9, 9]
    assert meta["test"] == answer["test"] and meta["config"]["targets"] == ["energy"]
    assert meta["config"]["units"] == ["eV"] and meta["config"]["encoding"] == "learned"
    assert meta["data"]["fingerprint"] and tensors["scale"].shape == (1,)
    assert str(tmp_path) not in json.dumps(meta)  # no paths of this machine
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 21 and {"loss", "lr", "epoch", "smoothness"} <= lines[-1].keys()
    assert not list(tmp_path.glob("*.lock"))

    table = fit("-o", run, "--resume")  # finished: tests again, as a table
    assert table.returncode == 0 and "eV/Angstrom" in table.stdout
    assert f"{answer['test']['forces']['value']:.5g}" in table.stdout
    refused = fit("egnn", data, "-o", run, "--epochs", "3")
    assert "--resume" in one_line(refused, 2)


# Batches of one piece, or of two in copies of the process.
IN_PIECES = ["--batch-size", "56", "--polarization", "movable"]
ENDED = {"whole": (["--steps", "400"], []), "apart": (["--steps", "150", *IN_PIECES], ["2"])}


@pytest.mark.parametrize(("more", "threads"), ENDED.values(), ids=ENDED)
def test_killed_and_terminated_runs_end_as_unbroken_ones(
    data: Path, tmp_path: Path, more: list[str], threads: list[str]
) -> None:
    words = ["egnn", data, "--target", "energy", *NETWORK, *TRAINING, *more]
    whole = tmp_path / "whole"
    assert fit(*words, "-o", whole).returncode == 0
    run, shared = tmp_path / "run", [word for n in threads for word in ("--threads", n)]
    first = begun(*words, "-o", run, "--save-every", "30", *shared)
    wait_for((run / "state.safetensors").exists, first)
    first.kill()
    first.communicate()
    stopped = 0
    for number in (signal.SIGTERM, signal.SIGINT):
        before = checkpoint.load_state(run / "state.safetensors")["counters"]["step"]
        process = begun("-o", run, "--resume", *shared)
        line = ""
        while "resuming" not in line:
            line = process.stderr.readline()
        assert f"step {before}" in line
        time.sleep(0.1)
        process.send_signal(number)
        _, message = process.communicate()  # which copies have open for as long as they live
        if process.returncode:  # else it had come to its end
            stopped += 1
            assert process.returncode == 128 + number
            assert f"go on with: neupol fit --resume -o {run}" in message
            after = checkpoint.load_state(run / "state.safetensors")["counters"]["step"]
            assert after >= before
    assert stopped
    assert fit("-o", run, "--resume", *shared).returncode == 0
    for name in ("best.safetensors", "last.safetensors"):
        ours, theirs = (checkpoint.load_file(path / name)[1] for path in (run, whole))
        assert all(ours[key].equal(theirs[key]) for key in theirs)
    logs = [without_times(path / "metrics.jsonl") for path in (run, whole)]
    assert logs[0] == logs[1]


def without_times(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def test_divergence_keeps_the_last_good_checkpoint(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["egnn", data, "-o", run, "--target", "energy", *NETWORK, *TRAINING]
    assert fit(*words, "--steps", "20").returncode == 0
    before = (run / "last.safetensors").read_bytes()
    result = fit("-o", run, "--resume", "--steps", "40", "--lr", "1e200", "--schedule", "constant")
    assert "not finite at step 21" in one_line(result, 76)
    assert (run / "last.safetensors").read_bytes() == before
    checkpoint.load_state(run / "state.safetensors")


def test_a_full_disk(run: Path) -> None:
    before = {p.name: p.read_bytes() for p in run.glob("*.safetensors")}
    full = neupol("fit", "-o", run, "--resume", "--steps", "4", limits={"FSIZE": 8_000})
    assert "unchanged" in one_line(full, 74)
    assert {p.name: p.read_bytes() for p in run.glob("*.safetensors")} == before
    assert not list(run.glob("*.partial"))
    assert fit("-o", run, "--resume").returncode == 0


def test_two_writers(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["egnn", data, "-o", run, "--target", "energy", "--steps", "1000000", *NETWORK]
    first = begun(*words, "--save-every", "5", "--batch-size", "4")
    try:
        wait_for((run / "state.safetensors").exists, first)
        assert f"process {first.pid}" in one_line(fit("-o", run, "--resume"), 75)
    finally:
        first.send_signal(signal.SIGTERM)
        first.communicate()
    assert first.returncode == 143


def test_damaged_state_is_refused(run: Path) -> None:
    whole = (run / "state.safetensors").read_bytes()
    (run / "state.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "checksum" in one_line(fit("-o", run, "--resume"), 78)
    (run / "state.safetensors").write_bytes(whole)
    metrics, kept = run / "metrics.jsonl", (run / "metrics.jsonl").read_bytes()
    for broken in (b"5\n", b"\xff\n", b"{}\n"):
        metrics.write_bytes(kept + broken)
        assert fit("-o", run, "--resume").returncode == 0
        assert metrics.read_bytes() == kept
    config = (run / "config.json").read_text()
    for broken, message in (
        ("[]", "does not say how the run was begun"),
        ("{}", "does not say how the run was begun"),
        (config.replace('"lr": 0.001', '"lr": "abc"'), "options.lr is 'abc', not a number"),
    ):
        assert broken != config
        (run / "config.json").write_text(broken)
        assert message in one_line(fit("-o", run, "--resume"), 65)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--target", "gap"], 65, "there are: energy, forces"),
        (["--set", "hiden=3"], 2, "it has species"),
        (["--encoding", "nonsense"], 2, "nonsense"),
        (["--polarization", "nonsense"], 2, "off, frozen, movable"),
        (["--schedule", "nonsense"], 2, "cosine"),
        (["--optimizer", "nonsense"], 2, "adamw"),
        (["--steps", "3", "--epochs", "3"], 2, "choose one of --epochs and --steps"),
        (["--partition", "nonsense"], 65, "there are: default"),
        (["--epochs", "inf"], 2, "--epochs: inf is not a finite number"),
        (["--lr", "inf"], 2, "--lr: inf is not a finite number"),
        (["--schedule", "waves:inf"], 2, "is not finite"),
        (["--set", "hidden=0"], 2, "from 1 to 4096"),
        (["--set", "charge_power=-1"], 2, "from 0 to 8"),
        (["--set", "cutoff=nan"], 2, "from 0.1 to 100"),
        (["--set", "species=1,6,7,8,400"], 2, "from 0 to 118"),
        (["--seed", "-1"], 2, "--seed"),
        (["--weight", "energy=0", "--weight", "forces=0"], 2, "nothing to learn"),
        (["--weight", "energy=-1"], 2, "not negative"),
        (["--resume"], 2, "holds no run to resume"),
    ],
)
def test_wrong_requests(
    data: Path, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    run = tmp_path / "run"
    assert message in one_line(fit("egnn", data, "-o", run, *words), code)
    assert not run.exists()


def test_what_a_resumed_run_cannot_change(data: Path, run: Path) -> None:
    assert "--seed 0" in one_line(fit("-o", run, "--resume", "--seed", "3"), 2)
    assert fit("-o", run, "--resume", "--steps", "4").returncode == 0
    assert checkpoint.load_file(run / "last.safetensors")[0]["training"]["step"] == 4
    forced = fit("egnn", data, "-o", run, "--force", "--target", "energy", "--steps", "1", *NETWORK)
    assert forced.returncode == 0
    assert checkpoint.load_file(run / "last.safetensors")[0]["training"]["step"] == 1


def test_a_missing_file_and_a_foreign_folder(data: Path, tmp_path: Path) -> None:
    assert "no such file" in one_line(fit("egnn", tmp_path / "x.h5", "-o", tmp_path / "r"), 65)
    assert "MODEL is missing" in one_line(fit("-o", tmp_path / "r"), 2)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("precious")
    assert "holds no run" in one_line(fit("egnn", data, "-o", foreign, "--force"), 2)
    assert [p.name for p in foreign.iterdir()] == ["thesis.tex"]
