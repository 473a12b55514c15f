"""neupol runs as a user runs it: tables, JSON, a picture, and folders that are no finished runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from neupol_cli import checkpoint
from neupol_cli.io import files
from tests.warm import neupol

EARLIER = Path(__file__).parents[1] / "data" / "run-0.1"
SMALL = ("--set", "hidden=4", "--set", "layers=1", "--target", "energy,forces", "--steps", "6")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, a and b, that differ by their seed; old is one of version 0.1."""
    place = tmp_path_factory.mktemp("runs")
    shutil.copytree(EARLIER, place / "old")
    for name, seed in (("a", "0"), ("b", "1")):
        words = ("-o", name, "--seed", seed, "--valid-every", "2", *SMALL)
        done = neupol("fit", "egnn", "old/ethanol.h5", *words, cwd=place)
        assert done.returncode == 0, done.stderr
    return place


def runs(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return neupol("runs", *words, cwd=place)


def listed(place: Path, *words: str) -> list[dict[str, Any]]:
    done = runs(place, *words, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["provenance"]["command"].startswith("neupol runs ")
    return answer["runs"]


def cells(table: str) -> list[list[str]]:
    return [[cell for cell in line.split("  ") if cell.strip()] for line in table.splitlines()]


def test_the_tables_say_what_runs_are_and_how_they_differ(folder: Path) -> None:
    done = runs(folder, "a", "b")
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.split("\n\n")
    heads, *rows = [[cell.strip() for cell in row] for row in cells(first)]
    assert heads == ["run", "network", "preset", "targets", "steps", "epochs", "minutes", "--seed"]
    assert [row[:6] for row in rows] == [
        [name, "egnn", "-", "energy, forces", "6", "6"] for name in "ab"
    ]
    assert [row[7] for row in rows] == ["0", "1"]
    heads, *rows = [[cell.strip() for cell in row] for row in cells(second)]
    assert heads == ["error of", "run", "best validation", "test", "unit"]
    names = ["energy", "forces", "weighted error"]
    assert [row[:2] for row in rows] == [[name, run] for name in names for run in "ab"]
    for name, run, valid, test, *_ in rows:
        header, _ = checkpoint.load_file(folder / run / "best.safetensors")
        assert float(valid) == pytest.approx(header["valid"][name]["value"], rel=1e-4)
        assert float(test) == pytest.approx(header["test"][name]["value"], rel=1e-4)
    assert [row[4:] for row in rows[::2]] == [["eV"], ["eV/Angstrom"], []]


def test_json_has_the_runs_own_numbers(folder: Path) -> None:
    a, old = listed(folder, "a", "old")
    header, _ = checkpoint.load_file(folder / "a" / "best.safetensors")
    assert (a["valid"], a["test"]) == (header["valid"], header["test"])
    assert (a["steps"], a["epochs"], old["steps"], old["epochs"]) == (6, 6.0, 12, 6.0)
    last = json.loads((folder / "old/metrics.jsonl").read_text().splitlines()[-1])
    assert old["minutes"] == last["seconds"] / 60.0
    assert a["options"].keys() == old["options"].keys()
    assert (a["options"]["--steps"], old["options"]["--steps"]) == (6, 12)
    assert (a["options"]["--default-dtype"], a["options"]["softened"]) == ("float32", True)
    assert not {"DATA", "--lr", "--device", "--target"} & a["options"].keys()


def test_one_run_differs_in_nothing(folder: Path) -> None:
    (one,) = listed(folder, "a")
    assert one["options"] == {}


def test_other_data_are_a_difference_and_another_path_is_none(folder: Path, tmp_path: Path) -> None:
    for name in ("moved", "other"):
        shutil.copytree(folder / "a", tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        config["options"]["data"] = "/elsewhere/ethanol.h5"
        if name == "other":
            config["fingerprint"] = "0123456789"
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    assert listed(tmp_path, str(folder / "a"), "moved")[0]["options"] == {}
    first, second = listed(tmp_path, "moved", "other")
    assert first["options"].keys() == second["options"].keys() == {"DATA"}
    assert second["options"]["DATA"] == "ethanol.h5 01234567"


def test_the_picture_has_every_curve(folder: Path, tmp_path: Path) -> None:
    done = runs(folder, "a", "old", "--plot", str(tmp_path / "curves.svg"))
    assert done.returncode == 0, done.stderr
    picture = (tmp_path / "curves.svg").read_text()
    titles = ["training loss (standardised)", "validation energy / eV"]
    titles += ["validation forces / eV/Angstrom", "validation weighted error", "a", "old"]
    assert all(f"<!-- {title} -->" in picture for title in titles)
    assert picture.count("<!-- validation") == 3


def test_a_picture_of_another_kind_is_refused(folder: Path) -> None:
    done = runs(folder, "a", "--plot", "a.gif")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def spoilt(folder: Path, place: Path, how: str) -> tuple[str, int]:
    """A folder that cannot be shown: what is said of it, and the exit code."""
    if how != "missing":
        shutil.copytree(folder / "a", place)
    if how == "no run":
        (place / "config.json").unlink()
    elif how == "no step":
        (place / "metrics.jsonl").write_text("")
        return "the run has logged no step", 65
    elif how == "metrics":
        (place / "metrics.jsonl").write_text('{"step": 1, "loss": "low"}\n')
        return "metrics.jsonl:1: loss is 'low', not a number", 65
    elif how == "config":
        (place / "config.json").write_text("{")
        return "config.json: not JSON", 65
    elif how == "weights":
        content = bytearray((place / "best.safetensors").read_bytes())
        content[-1] ^= 1
        (place / "best.safetensors").write_bytes(content)
        return "the checksum does not agree", 78
    elif how == "no weights":
        for name in ("best", "last"):
            (place / f"{name}.safetensors").unlink()
        return "last.safetensors: No such file", 74
    return "holds no run of `neupol fit`", 65


WAYS = ("missing", "no run", "no step", "metrics", "config", "weights", "no weights")


@pytest.mark.parametrize("how", WAYS)
def test_what_is_no_run_is_said_and_left_out(how: str, folder: Path, tmp_path: Path) -> None:
    said, code = spoilt(folder, tmp_path / "bad", how)
    bad, good = str(tmp_path / "bad"), str(folder / "a")
    done = runs(tmp_path, good, bad)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr and len(done.stderr.splitlines()) == 1
    done = runs(tmp_path, bad, good, "--on-error", "skip")
    assert done.returncode == 0 and done.stdout.splitlines()[1].startswith(good)
    assert done.stderr.startswith("neupol: ") and done.stderr.endswith("(skipped)\n")
    done = runs(tmp_path, bad, "--on-error", "skip")
    assert done.returncode == 65 and "no run is left to show" in done.stderr
    assert (tmp_path / "bad").exists() == (how != "missing")


def test_a_run_at_work_is_left_alone(folder: Path) -> None:
    with files.locked_folder(folder / "a"):
        done = runs(folder, "a")
        assert done.returncode == 75 and "is writing it; try again" in done.stderr
        done = runs(folder, "a", "b", "--on-error", "skip")
    assert done.returncode == 0 and "(skipped)" in done.stderr


def test_a_stopped_run_has_no_test_yet(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "a", tmp_path / "a")
    header, tensors = checkpoint.load_file(tmp_path / "a/best.safetensors")
    plain = {k: v for k, v in header.items() if k not in ("test", "sha256", "format", "kind")}
    checkpoint.write(tmp_path / "a/best.safetensors", "weights", plain, tensors)
    (one,) = listed(tmp_path, "a")
    assert one["test"] == {} and one["valid"] == header["valid"]
    row = next(r for r in runs(tmp_path, "a").stdout.splitlines() if r.startswith("energy"))
    assert row.split()[-2:] == ["-", "eV"]
