"""What a file says of its structures is in every form of every command's answer."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import ase.io
import pytest

from neupol_cli.io import hdf5

RECORD = """{title}

comment
  3  2  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.1190 O   0  0  0  0  0  0  0  0  0  0  0  0
    0.0000    0.7630   -0.4770 H   0  0  0  0  0  0  0  0  0  0  0  0
    0.0000   -0.7630   -0.4770 H   0  0  0  0  0  0  0  0  0  0  0  0
  1  2  1  0
  1  3  1  0
M  END
> <ID>
{identity}

$$$$
"""
SAID = [{"comment": "first", "ID": "X-007"}, {"comment": "sec\tond", "ID": "X 8"}]
COARSE = ("--spacing", "0.5", "--device", "cpu")


@pytest.fixture
def sdf(tmp_path: Path) -> Path:
    path = tmp_path / "two.sdf"
    path.write_text("".join(RECORD.format(title=s["comment"], identity=s["ID"]) for s in SAID))
    return path


def said(info: Any) -> dict[str, Any]:
    return {key: info[key] for key in SAID[0]}


def printed(done: Any) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "-m", "points-homo"),
        ("relax", "--steps", "1"),
        ("vib",),
        ("trajectory", "-m", "points-homo"),
    ],
    ids=lambda words: words[0],
)
def test_json(neupol, sdf: Path, words: tuple[str, ...]) -> None:
    assert [said(one["info"]) for one in printed(neupol(*words, sdf, "--json"))] == SAID


@pytest.mark.parametrize("command", ["density", "charges", "potential", "density-descriptor"])
def test_json_of_densities(neupol, sdf: Path, tmp_path: Path, command: str) -> None:
    if command in ("density", "charges"):
        output = ("-o", tmp_path / "d.h5") if command == "density" else ()
        found = printed(neupol(command, sdf, *COARSE, *output, "--json"))
    else:
        name = ("iri",) if command == "density-descriptor" else ()
        first = tmp_path / "one.sdf"
        first.write_text(sdf.read_text().partition("$$$$\n")[0] + "$$$$\n")
        output = tmp_path / "d.cube"
        found = printed(neupol(command, *name, first, *COARSE, "-o", output, "--json"))
    assert [said(one["info"]) for one in found] == SAID[: len(found)]


def test_tab_separated_lines(neupol, sdf: Path) -> None:
    for words in (("predict", "-m", "points-homo"), ("relax", "--steps", "1")):
        done = neupol(*words, sdf)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
        assert [said(json.loads(row["info"])) for row in rows] == SAID


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("predict", "-m", "points-homo"), "o.extxyz"),
        (("relax", "--steps", "1"), "o.extxyz"),
        (("charges", *COARSE), "o.extxyz"),
        (("predict", "-m", "points-homo"), "o.h5"),
        (("density", *COARSE), "o.h5"),
        (("trajectory", "-m", "points-homo"), "o.extxyz"),
    ],
    ids=lambda word: word if isinstance(word, str) else word[0],
)
def test_files(neupol, sdf: Path, tmp_path: Path, words: tuple[str, ...], name: str) -> None:
    output = tmp_path / name
    done = neupol(*words, sdf, "-o", output)
    assert done.returncode == 0, done.stderr
    if name.endswith(".extxyz"):
        infos = [atoms.info for atoms in ase.io.read(output, ":")]
        infos = infos[:: len(infos) // 2]  # of the first frame of each
        assert [said(info) for info in infos] == SAID
        assert [info["structure"] for info in infos] == [f"{sdf}#0", f"{sdf}#1"]
    else:
        dataset = hdf5.read(output)
        assert [said(dataset.atoms(k).info) for k in range(2)] == SAID
        assert [dataset.info_of(k)["structure"] for k in range(2)] == [f"{sdf}#0", f"{sdf}#1"]


def test_through_a_dataset(neupol, tmp_path: Path) -> None:
    """Labels are labels there, and what else is said stays with its structure."""
    labelled, dataset = tmp_path / "a.extxyz", tmp_path / "a.h5"
    frame = "2\nProperties=species:S:1:pos:R:3 ID={} homo={}\nH 0 0 0\nF 0 0 0.9{}\n"
    labelled.write_text(frame.format("a7", -9.5, 1) + frame.format("b8", -9.25, 2))
    words = ("data", "xyz", labelled, "-o", dataset, "--target", "homo=eV")
    assert neupol(*words).returncode == 0
    stored = hdf5.read(dataset)
    assert stored.info == (
        {"ID": "a7", "structure": f"{labelled}#0"},
        {"ID": "b8", "structure": f"{labelled}#1"},
    )
    output = tmp_path / "o.csv"
    words = ("evaluate", dataset, "-m", "points-homo", "-o", output)
    found = printed(neupol(*words, "--json"))
    lines = neupol(*words).stdout.splitlines()
    table = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    for record, row in zip(found, table, strict=True):
        assert record["largest_at_info"] == stored.info[record["largest_at"]]
        assert json.loads(row["its info"]) == record["largest_at_info"]
    rows = list(csv.DictReader(output.open()))
    assert sorted((row["structure"], row["ID"]) for row in rows) == [("0", "a7"), ("1", "b8")]
    info = json.loads(neupol("data", "info", dataset, "--json").stdout)["info"]
    assert info == ["ID", "structure"]


def test_ids_of_a_dataset(tmp_path: Path) -> None:
    """QM9's numbers, unless a structure has another id of its own."""
    frames = [ase.Atoms("He"), ase.Atoms("Ne", info={"id": "own"})]
    hdf5.write(tmp_path / "a.h5", hdf5.from_atoms(frames, "structures", "", ids=[17, 4]))
    stored = hdf5.read(tmp_path / "a.h5")
    assert [stored.atoms(k).info["id"] for k in range(2)] == [17, "own"]
