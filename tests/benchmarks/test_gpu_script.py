"""benchmarks/gpu.py without a GPU: budgets, a record that grows, parts that fail or hang."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.warm import python

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_script", FOLDER / "gpu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu_parts

    monkeypatch.setattr(gpu_parts, "REPEATS", 1)
    return gpu_parts


class Disk(io.StringIO):
    """A file whose content is looked at each time that it is written to the disk."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def fileno(self) -> int:
        self.seen.append(len(self.getvalue().splitlines()))
        return os.open(os.devnull, os.O_WRONLY)


def measured(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, parts: list[Any], seconds: float = 60.0
) -> list[dict[str, Any]]:
    synced: list[int] = []
    monkeypatch.setattr(gpu.os, "fsync", synced.append)
    disk = Disk()
    gpu.measured(parts, gpu.Record(disk), seconds, grace=2.0)
    lines = [json.loads(line) for line in disk.getvalue().splitlines()]
    assert disk.seen == list(range(1, len(lines) + 1)) and len(synced) == len(lines)
    for number in synced:
        os.close(number)
    return lines


def of(gpu: ModuleType, name: str, code: str, seconds: float | None = 20.0) -> Any:
    return gpu.Part(name, [sys.executable, "-c", code], seconds)


def said(lines: list[dict[str, Any]], part: str) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in line.items() if key not in ("part", "at")}
        for line in lines
        if line["part"] == part and "begins" not in line
    ]


def test_every_part_has_its_turn(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [
        of(gpu, "fails", "print('{\"a\": 1}'); raise SystemExit(3)"),
        gpu.Part("missing", ["/nowhere/at/all"], 5.0),
        of(gpu, "speaks", "print('not JSON'); print('[1]')"),
    ]
    lines = measured(gpu, monkeypatch, parts)
    assert said(lines, "fails") == [{"a": 1}, {"end": "exit code 3"}]
    assert "No such file" in said(lines, "missing")[0]["end"]
    assert said(lines, "speaks") == [{"text": "not JSON"}, {"text": "[1]"}, {"end": "exit code 0"}]


def test_a_part_that_hangs_is_asked_and_then_ended(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One saves itself when it is asked; one does not listen; what both said before is kept."""
    polite = (
        "import signal, sys, time\n"
        "def stop(*_): print('{\"saved\": true}'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "print('{\"step\": 1}'); time.sleep(600)"
    )
    deaf = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('{\"step\": 1}'); time.sleep(600)"
    )
    parts = [of(gpu, "polite", polite, 3.0), of(gpu, "deaf", deaf, 3.0), of(gpu, "next", "")]
    lines = measured(gpu, monkeypatch, parts)
    over = {"end": "its time was over"}
    assert said(lines, "polite") == [{"step": 1}, {"saved": True}, over]
    assert said(lines, "deaf") == [{"step": 1}, over]
    assert said(lines, "next") == [{"end": "exit code 0"}]


def test_budgets(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """None beyond what is left; the last has all of it; without any, a part does not begin."""
    now = iter([0.0, *[10.0] * 3, *[70.0] * 3, *[95.0] * 9])
    monkeypatch.setattr(gpu, "said", lambda part, seconds, grace: iter([{"had": seconds}]))
    disk = Disk()
    monkeypatch.setattr(gpu.os, "fsync", os.close)
    parts = [gpu.Part("short", [], 40.0), gpu.Part("rest", []), gpu.Part("late", [], 5.0)]
    gpu.measured(parts, gpu.Record(disk, lambda: next(now)), 100.0, grace=10.0)
    lines = [json.loads(line) for line in disk.getvalue().splitlines()]
    assert [line["had"] for line in lines if "had" in line] == [40.0, 20.0]
    assert lines[-1]["part"] == "late" and lines[-1]["end"] == "no time left"


def test_all_parts_fit_into_ten_minutes(gpu: ModuleType) -> None:
    parts = gpu.parts(Path("run"))
    assert sum(part.seconds or 0 for part in parts) + gpu.GRACE <= gpu.SECONDS == 600
    assert [part.seconds for part in parts].index(None) == len(parts) - 1
    assert len(gpu.parts(None)) == len(parts) - 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    record = tmp_path / "record"
    result = python(FOLDER / "gpu.py", "--record", record)
    assert result.returncode == 2 and result.stdout == "" and not record.exists()
    assert result.stderr == "gpu: there is no GPU that PyTorch can use here\n"


def small(measuring: Any, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    """One network, a few structures."""
    labelled, densities = measuring.labelled, measuring.densities
    monkeypatch.setattr(measuring, "labelled", lambda: labelled(6))
    monkeypatch.setattr(measuring, "densities", lambda: densities(2, 6))
    monkeypatch.setattr(measuring, "NETWORKS", ("egnn-qm9",))
    monkeypatch.setattr(measuring, "DENSITIES", ("charge3net-qm9",))
    trainer = measuring.trainer

    def broken(preset: str, *others: Any) -> Any:
        if preset == settings.get("broken"):
            raise RuntimeError("this one fails\nat length")
        return trainer(preset, *others)

    monkeypatch.setattr(measuring, "trainer", broken)


def test_rates_of_every_kind(measuring: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small(measuring, monkeypatch, {"broken": "egnn-nbody"})
    lines = list(measuring.rates("cpu", measuring.Deadline(60)))
    by_name = {(line["preset"], line["polarization"]): line for line in lines}
    assert by_name.pop(("egnn-nbody", "off"))["error"] == "this one fails"
    assert ("egnn-qm9", "movable") in by_name and ("charge3net-qm9", "off") in by_name
    assert all(line["training"] > 0 and line["inference"] > 0 for line in by_name.values())


def test_waits_of_every_kind(measuring: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small(measuring, monkeypatch, {})
    lines = list(measuring.waits("cpu", measuring.Deadline(60)))
    assert len(lines) == 5 and all(line["waits"] == {} for line in lines)


def test_gradients_are_those_of_all_weights(
    measuring: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(measuring, monkeypatch, {})
    for name, data, mode in measuring.cases():
        one = measuring.trainer(name, data, "cpu", mode)
        found = measuring.gradients(one, measuring.forward(one, data))()
        assert len(found) == len(one.parameters) and any(g is not None for g in found)


def test_a_density_stops_when_its_time_is_over(measuring: Any) -> None:
    lines = measuring.density("cpu", measuring.Deadline(60), 1000, 1)
    first, second, forces = lines
    assert first["done"] == first["points"] == 1000 and first["peak bytes"] > 0
    assert second["atoms"] == forces["atoms"] == 16 and forces["forces, seconds"] > 0
    times = iter([0.0, *[0.5] * 1, *[2.0] * 1000])
    late = measuring.Deadline(1.0, lambda: next(times))
    cut = next(measuring.density("cpu", late, 64_000, 1))
    assert cut["error"] == "out of time" and 0 < cut["done"] < cut["points"]
