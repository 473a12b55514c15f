"""TensorBoard's events: the numbers of metrics.jsonl, each step once; none without the package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neupol_cli.training.events import NAMES, Events, scalars
from tests.warm import neupol

DATA = Path(__file__).parents[1] / "data" / "run-0.1" / "ethanol.h5"
SMALL = ("--set", "hidden=4", "--set", "layers=1", "--target", "energy,forces")


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def fit(run: Path, *words: str) -> None:
    done = neupol("fit", "-o", run, "--save-every", "7", *words)
    assert done.returncode == 0, done.stderr
    assert "tensorboard" not in done.stderr.lower()


def read(run: Path) -> dict[tuple[str, int], float]:
    """(tag, step) -> value, as TensorBoard's own loader has them; none of them twice."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    (file,) = run.glob(NAMES)
    events = list(loader.LegacyEventFileLoader(str(file)).Load())
    assert events[0].file_version == "brain.Event:2"
    found = [((v.tag, e.step), v.simple_value) for e in events[1:] for v in e.summary.value]
    assert len(dict(found)) == len(found)
    assert [e.wall_time for e in events] == sorted(e.wall_time for e in events)
    return dict(found)


def expected(run: Path) -> dict[tuple[str, int], float]:
    """The same of metrics.jsonl, in single precision."""
    pairs = [((t, line["step"]), v) for line in lines(run) for t, v in scalars(line)]
    return {key: float(np.float32(value)) for key, value in pairs}


def test_a_line_as_scalars() -> None:
    line = {"step": 5, "seconds": 1.5, "epoch": 0.25, "loss": 2.0, "valid": {"U0": 0.5, "mu": 3.0}}
    assert dict(scalars(line)) == {"epoch": 0.25, "loss": 2.0, "valid/U0": 0.5, "valid/mu": 3.0}


def test_a_run_and_its_continuation_have_each_step_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    fit(run, "egnn", str(DATA), "--steps", "60", "--valid-every", "20", *SMALL)
    first = read(run)
    assert first == expected(run)
    assert {tag for tag, _ in first} >= {"loss", "lr", "epoch", "valid/energy", "valid/forces"}
    assert {step for _, step in first} == {20, 40, 50, 60}
    # A step beyond the last state, as a kill leaves it: the continuation does not have it twice.
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 65, "seconds": 9.0, "loss": 77.0}\n')
    fit(run, "--resume", "--steps", "80")
    second = read(run)
    assert second == expected(run) and ("loss", 65) not in second
    assert first.items() <= second.items() and ("valid/energy", 80) in second


def test_a_new_run_in_the_folder_forgets_the_earlier_one(tmp_path: Path) -> None:
    (tmp_path / NAMES.replace("*", "1")).write_text("of an earlier run")
    began = [{"step": 0, "seconds": 0.0, "valid": {"U0": 1.0}}]
    events = Events.of(tmp_path, began, 3.0)
    if events is not None:
        events.close()
        assert read(tmp_path) == {("valid/U0", 0): 1.0}
    assert not (tmp_path / NAMES.replace("*", "1")).exists()


def test_times_are_those_of_work(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    began = [{"step": k, "seconds": 100.0 * k, "loss": 1.0} for k in (1, 2)]
    events = Events.of(tmp_path, began, 250.0)
    assert events is not None
    events.add({"step": 3, "seconds": 300.0, "loss": 1.0})
    events.close()
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    (file,) = tmp_path.glob(NAMES)
    times = [event.wall_time for event in loader.LegacyEventFileLoader(str(file)).Load()]
    assert np.diff(times) == pytest.approx([100.0, 100.0, 100.0], abs=1e-5)


@pytest.mark.parametrize("broken", [False, True])
def test_without_the_package_a_run_is_the_same(broken: bool, tmp_path: Path) -> None:
    (tmp_path / "tensorboard").mkdir()
    raised = "TypeError('no descriptors')" if broken else "ImportError('tensorboard')"
    (tmp_path / "tensorboard/__init__.py").write_text(f"raise {raised}\n")
    script = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
    script += "from neupol_cli.app import main\nmain()\n"
    words = ["fit", "egnn", str(DATA), "-o", str(tmp_path / "run"), "--steps", "2", *SMALL]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "run").glob(NAMES)) and len(lines(tmp_path / "run")) == 2
    said = "no events are written: tensorboard fails: no descriptors"
    assert (said in done.stderr) == broken and ("tensorboard" in done.stderr) == broken
