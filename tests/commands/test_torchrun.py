"""Commands as torchrun starts them: several processes, one answer, and what a lost one leaves."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from neupol_cli import checkpoint
from neupol_cli.io import volumetric
from tests.conftest import Run
from tests.warm import Process, environment, wait_for

ROOT = Path(__file__).parents[2]
NETWORK = ["--set", "hidden=8", "--set", "layers=2", "--default-dtype", "float64"]
WATER = "3\nwater\nO 0 0 0.1173\nH 0 0.7572 -0.4692\nH 0 -0.7572 -0.4692\n"
FAILED = "another process of this run has ended"


def started(*words: str | Path, world: int = 2) -> list[Process]:
    """One process a rank, in the environment that torchrun gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    return [Process("-m", "neupol_cli", *words, env=shared | rank) for rank in ranks]


def ended(processes: list[Process], text: str = "") -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each."""
    found = []
    for process in processes:
        out, err = process.communicate(text)
        found.append((process.wait(), out, err))
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, neupol: Run) -> Path:
    path = tmp_path_factory.mktemp("data") / "ethanol.h5"
    source = ROOT / "tests" / "data" / "ethanol_80.npz"
    assert neupol("data", "md17", source, "-o", path, "--partition", "56,12,12").returncode == 0
    return path


def weights(run: Path, name: str) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in checkpoint.load_file(run / f"{name}.safetensors")[1].items()}


def test_two_processes_train_what_one_trains_and_survive_each_other(
    data: Path, tmp_path: Path, neupol: Run
) -> None:
    words = [data, "--target", "energy", "--steps", "200", "--valid-every", "30", *NETWORK]
    words += ["--batch-size", "5", "--ema", "0.9", "--json"]
    whole = tmp_path / "whole"
    alone = neupol("fit", "egnn", *words, "-o", whole)
    assert alone.returncode == 0, alone.stderr

    run = tmp_path / "run"
    processes = started("fit", "egnn", *words, "-o", run, "--save-every", "9999")
    wait_for((run / "best.safetensors").exists, *processes)
    processes[1].kill()
    (code, _, message), (killed, _, _) = ended(processes)
    assert (code, killed) == (75, -signal.SIGKILL), message
    assert FAILED in message and f"neupol fit --resume -o {run}" in message
    assert "Traceback" not in message
    assert not list(tmp_path.glob("*.lock"))
    state = checkpoint.load_state(run / "state.safetensors")
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert state["counters"]["step"] >= last["step"] >= 30  # saved where it stopped, not before

    (code, out, message), (other, silence, words_of_other) = ended(
        started("fit", "--resume", "-o", run, "--json")
    )
    assert (code, other) == (0, 0), message
    assert f"resuming at step {state['counters']['step']}" in message and "and 1 more" in message
    assert silence == words_of_other == ""
    ours, theirs = json.loads(out), json.loads(alone.stdout)
    for part in ("valid", "test"):
        error = ours[part]["energy"]["value"]
        assert error == pytest.approx(theirs[part]["energy"]["value"], rel=0, abs=1e-9)
    for name in ("best", "last"):
        expected = weights(whole, name)
        for key, value in weights(run, name).items():
            np.testing.assert_allclose(value, expected[key], rtol=0, atol=1e-9)


def test_a_signal_ends_all_and_the_run_is_saved(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    processes = started("fit", "egnn", data, "--steps", "100000", *NETWORK, "-o", run)
    metrics = run / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text(), *processes)
    for _ in range(2):  # the terminal's and torchrun's own
        processes[1].send_signal(signal.SIGINT)
        time.sleep(0.05)
    found = ended(processes)
    assert [code for code, _, _ in found] == [130, 130], found
    assert f"stopped by SIGINT; go on with: neupol fit --resume -o {run}" in found[0][2]
    assert found[1][2] == ""
    assert checkpoint.load_state(run / "state.safetensors")["counters"]["step"] > 0


def test_torchrun_starts_a_run_again_where_it_was(data: Path, tmp_path: Path) -> None:
    """With torchrun itself: a rank of the first attempt kills itself."""
    killer = tmp_path / "killer.py"
    killer.write_text(
        "import os, signal, threading, time\n"
        "from pathlib import Path\n"
        "from neupol_cli.app import main\n"
        "def end():\n"
        "    while not Path('run/state.safetensors').exists():\n"
        "        time.sleep(0.01)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "if os.environ['RANK'] + os.environ['TORCHELASTIC_RESTART_COUNT'] == '00':\n"
        "    threading.Thread(target=end, daemon=True).start()\n"
        "main()\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    words = ["fit", "egnn", data, "-o", "run", "--steps", "200", "--valid-every", "30", *NETWORK]
    done = subprocess.run(
        [*launch, "--max-restarts", "1", str(killer), *map(str, words)],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # Whether the other rank sees its loss or torchrun ends it first is a race.
    assert "resuming at step" in done.stderr
    assert checkpoint.load_file(tmp_path / "run" / "last.safetensors")[0]["training"]["step"] == 200


def test_predictions_keep_their_order_and_a_bad_structure_its_message(
    untrained, tmp_path: Path, neupol: Run
) -> None:
    frames = "".join(WATER.replace("0.7572", f"0.7{k:03d}") for k in range(300))
    frames = frames.replace("O 0 0", "Xe 0 0", 1)
    words = ["predict", "-", "-m", untrained(), "--on-error", "skip", "--json"]
    alone = neupol(*words, input=frames)
    (code, out, message), other = ended(started(*words), frames)
    assert code == 0 and message == alone.stderr and "Xe" in message
    assert other == (0, "", "")
    ours, theirs = (list(map(json.loads, text.splitlines())) for text in (out, alone.stdout))
    assert len(ours) == 299
    assert [one["structure"] for one in ours] == [one["structure"] for one in theirs]
    for one, another in zip(ours, theirs, strict=True):
        for name, found in one["properties"].items():
            expected = another["properties"][name]["value"]
            assert found["value"] == pytest.approx(expected, rel=0, abs=1e-4)


def test_a_density_is_shared_out(tmp_path: Path, neupol: Run) -> None:
    (tmp_path / "water.xyz").write_text(WATER)
    words = ["density", tmp_path / "water.xyz", "--dtype", "float64", "--spacing", "0.4", "--json"]
    alone = neupol(*words, "-o", tmp_path / "one.h5")
    (code, out, message), other = ended(started(*words, "-o", tmp_path / "two.h5"))
    assert code == 0 and other == (0, "", ""), message
    sums = [json.loads(text)["electrons_sum"] for text in (out, alone.stdout)]
    assert sums[0] == pytest.approx(sums[1], rel=0, abs=1e-9)
    one, two = (volumetric.read(tmp_path / f"{name}.h5").values for name in ("one", "two"))
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-12)


def test_what_goes_wrong_in_the_first_ends_the_others(tmp_path: Path) -> None:
    (tmp_path / "water.xyz").write_text(WATER)
    words = ["density", tmp_path / "water.xyz", "-o", tmp_path / "a.cube", "-m", "qm9"]
    (first, _, message), other = ended(started(*words))
    assert first == 2 and "predicts no densities" in message
    assert other == (0, "", "")


def test_what_was_printed_is_not_printed_again(tmp_path: Path, neupol: Run) -> None:
    done = neupol("predict", "-", input=WATER, env={"TORCHELASTIC_RESTART_COUNT": "1"})
    assert done.returncode == 75 and "a process was lost" in done.stderr and not done.stdout


@pytest.mark.parametrize("words", [("models",), ("density-compare", "a.h5"), ("evaluate", "a.h5")])
def test_what_one_process_does_is_refused_to_several(
    words: tuple[str, ...], neupol: Run, tmp_path: Path
) -> None:
    launched = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    refused = neupol(*words, env=launched, cwd=tmp_path)
    assert refused.returncode == 2
    assert "is done by one process: leave torchrun out" in refused.stderr
