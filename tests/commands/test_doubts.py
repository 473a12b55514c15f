"""Doubts as a user meets them: a line on stderr, a column, and exit 65 where they are errors."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests.warm import neupol

HYDROXIDE = "2\ncharge=-1\nO 0 0 0\nH 0 0 0.97\n"
PARTED = "2\nnitrogen, taken apart\nN 0 0 0\nN 0 0 4\n"
METHANOL = (
    "6\nmethanol\nC -0.0473 0.6625 0\nO -0.0473 -0.7601 0\nH -1.0924 0.9693 0\n"
    "H 0.8782 -1.0408 0\nH 0.4376 1.0707 0.8921\nH 0.4376 1.0707 -0.8921\n"
)


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_molecule_of_the_training_sort_gets_none(words: list[str]) -> None:
    done = neupol("predict", "-", *words, input=METHANOL)
    assert (done.returncode, done.stderr) == (0, "")
    if words:
        assert json.loads(done.stdout)["doubts"] == []


def test_a_doubt_is_a_line_and_a_column() -> None:
    done = neupol("predict", "-", input=METHANOL + PARTED)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("neupol: -#1: doubtful: ") and "in 2 parts that no bond joins" in line
    rows = list(csv.DictReader(io.StringIO(done.stdout), delimiter="\t"))
    assert rows[0]["doubts"] == "" and "in 2 parts" in rows[1]["doubts"]


def test_strict_makes_it_an_error_or_leaves_it_out() -> None:
    done = neupol("predict", "-", "--strict", input=METHANOL + PARTED)
    assert done.returncode == 65 and "-#1: doubtful: " in done.stderr
    done = neupol(
        "predict", "-", "--strict", "--on-error", "skip", "--json", input=PARTED + METHANOL
    )
    assert done.returncode == 0 and "(skipped)" in done.stderr
    assert [json.loads(line)["formula"] for line in done.stdout.splitlines()] == ["CH4O"]


def test_a_charge_that_can_only_be_ignored_is_refused() -> None:
    message = "neupol: -: has charge -1, the model was trained on 0\n"
    done = neupol("predict", "-", input=HYDROXIDE)
    assert (done.returncode, done.stderr) == (65, message)
    done = neupol("predict", "-", "--charge", "1", input=METHANOL)
    assert done.returncode == 65 and "has charge +1" in done.stderr
    assert neupol("predict", "-", "--charge", "0", input=METHANOL).returncode == 0
    done = neupol("trajectory", "-", "-m", "points-homo", input=HYDROXIDE)
    assert (done.returncode, done.stderr) == (65, message)


def test_a_density_counts_the_charges_electrons(tmp_path: Path) -> None:
    words = ["--spacing", "0.3", "--normalize", "--json", "-o", tmp_path / "o.cube"]
    done = neupol("density", "-", *words, input=HYDROXIDE)
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert report["electrons_expected"] == 8
    assert report["electrons"] == pytest.approx(8, abs=1e-3)
    assert any("of 8 electrons" in doubt for doubt in report["doubts"])
    # OH- is unlike the molecules that the model knows: it says that it may be far off.
    assert report["eps_mae_below_percent"] > 1.0
    assert "has charge -1" in done.stderr
    # And around which atom, in the same line.
    worst = "; most of all around atom 1 (O)\n"
    bounds = report["uncertainty_atoms"]
    assert len(bounds) == 2 and bounds[0] > bounds[1] and done.stderr.endswith(worst)
    done = neupol("density", "-", *words, "--strict", input=HYDROXIDE)
    assert done.returncode == 65 and done.stderr.endswith(worst)
    neutral = neupol("density", "-", *words, "--charge", "0", input=HYDROXIDE)
    assert json.loads(neutral.stdout)["electrons_expected"] == 7


def test_a_models_domain_is_told() -> None:
    said = neupol("models", "qm9").stdout
    assert "trained on 100,000 molecules of 3 to 29 atoms, 1 to 9 besides hydrogen" in said
