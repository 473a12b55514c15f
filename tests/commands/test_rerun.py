"""Outputs say where they come from, and are made again by the command that they name."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import ase.io
import h5py
import numpy as np
import pytest
from ase.calculators.vasp import VaspChargeDensity

from neupol_cli import __version__, registry
from neupol_cli.io import hdf5, structures, volumetric
from neupol_cli.rerun import records
from tests.commands.test_config import FRAMES
from tests.commands.test_predict import WATER

GRID = ("--grid", "12,12,12")


def checksum(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def place(tmp_path: Path, untrained: Any) -> Path:
    """A folder with a structure, two of them, and a model of properties."""
    (tmp_path / "water.xyz").write_text(WATER)
    (tmp_path / "two.xyz").write_text(WATER * 2)
    shutil.copy(untrained(), tmp_path / "it.safetensors")
    return tmp_path


def ran(neupol: Any, place: Path, *words: Any, **more: Any) -> Any:
    done = neupol(*words, cwd=place, **more)
    assert done.returncode == 0, done.stderr
    return done


PREDICT = ("predict", "two.xyz", "-m", "it.safetensors", "-o")
DENSITY = ("density", "water.xyz", *GRID, "-o")
CHARGES = ("charges", "water.xyz", *GRID, "-o")
COMMANDS: dict[str, tuple[str, ...]] = {
    "p.h5": PREDICT,
    "p.extxyz": PREDICT,
    "p.csv": PREDICT,
    "p.jsonl": ("predict", "--json", *PREDICT[1:]),
    "d.h5": DENSITY,
    "d.npz": DENSITY,
    "d.cube": DENSITY,
    "d.cube.gz": DENSITY,
    "d.xsf": DENSITY,
    "d.xsf.gz": DENSITY,
    "CHGCAR": DENSITY,
    "charge-density.dat": DENSITY,
    "c.extxyz": CHARGES,
    "t.h5": ("trajectory", "water.xyz", "-m", "points-homo", "-o"),
    "t.extxyz": ("trajectory", "water.xyz", "-m", "points-homo", "-o"),
    "x.h5": ("data", "xyz", "two.xyz", "--energy-key", "U0_eV", "-o"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_an_output_says_its_command_and_is_made_again(name: str, neupol: Any, place: Path) -> None:
    words = COMMANDS[name]
    if words[0] == "data":
        text = WATER.replace("water", "U0_eV=-1.0")
        (place / "two.xyz").write_text(text * 2)
    if name == "charge-density.dat":
        cell = 'Lattice="6 0 0 0 6 0 0 0 6" pbc="T T T"'
        (place / "water.xyz").write_text(WATER.replace("water", cell))
    ran(neupol, place, *words, name)
    said, source = records.read(place / name), words[1 if words[0] != "data" else 2]
    source = "two.xyz" if "two.xyz" in words else source
    assert (said.neupol, said.command) == (__version__, " ".join(("neupol", *words, name)))
    model = place / "it.safetensors" if "predict" in words else None
    if words[0] in ("density", "charges"):
        model = registry.bundled()["density"]
    full = {"inputs": checksum(place / source)} | ({"models": checksum(model)} if model else {})
    for part, expected in full.items():
        found = getattr(said, part).values()
        assert (expected[:8] if ".cube" in name else expected) in found
        # Of a cell with a molecule two models were asked, and one of them answered.
        assert len(found) == (2 if part == "models" and name == "charge-density.dat" else 1)
    before = (place / name).read_bytes()
    again = ran(neupol, place, "rerun", name)
    assert again.stdout == f"{name}: equal\n"
    assert str(place).encode() not in before
    assert (place / name).read_bytes() == before
    ran(neupol, place, "rerun", name, "-o", "new")
    assert (place / "new").read_bytes() == before
    left = {"water.xyz", "two.xyz", "it.safetensors", "new", name}
    assert {path.name for path in place.iterdir()} == left


def test_each_format_has_its_own_place(neupol: Any, place: Path) -> None:
    """Read by others, as others read them."""
    for name in ("p.h5", "p.extxyz", "p.csv", "d.npz", "d.h5", "CHGCAR", "d.cube"):
        ran(neupol, place, *COMMANDS[name], name)
    inputs = {"two.xyz": checksum(place / "two.xyz")}
    with h5py.File(place / "p.h5") as file:
        assert json.loads(file.attrs["provenance"])["inputs"] == inputs
    assert hdf5.read(place / "p.h5").size == hdf5.read(place / "d.h5").size + 1 == 2
    frames = ase.io.read(place / "p.extxyz", ":")
    assert frames[0].info["provenance"]["inputs"] == inputs
    assert "provenance" not in frames[1].info
    with (place / "p.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert json.loads(rows[0]["provenance"])["inputs"] == inputs and not rows[1]["provenance"]
    with np.load(place / "d.npz") as arrays:
        assert json.loads(str(arrays["provenance"]))["neupol"] == __version__
    assert len(ase.io.read(place / "d.cube")) == 3
    assert VaspChargeDensity(str(place / "CHGCAR")).chg[0].shape == (12, 12, 12)
    for name in ("CHGCAR", "d.cube"):
        assert volumetric.read(place / name).grid.shape == (12, 12, 12)
    lines = (place / "d.cube").read_text().splitlines()[:2]
    assert max(map(len, lines)) <= 80
    assert lines[0] == f"neupol {__version__}: density water.xyz --grid 12,12,12 -o d.cube"


def test_what_was_predicted_of_an_output_is_of_that(neupol: Any, place: Path) -> None:
    """An earlier record is no part of a structure that is read again."""
    ran(neupol, place, *PREDICT, "p.extxyz")
    ran(neupol, place, "predict", "p.extxyz", "-m", "it.safetensors", "-o", "q.extxyz")
    assert list(records.read(place / "q.extxyz").inputs) == ["p.extxyz"]
    assert (place / "q.extxyz").read_text().count("provenance=") == 1


def test_titles_have_80_characters(neupol: Any, place: Path) -> None:
    """A command without room is cut, and stands in a file beside; nobody runs half of it."""
    name = "a" * 60 + ".cube"
    beside = place / f"{name}.provenance"
    ran(neupol, place, *DENSITY, name)
    assert records.read(place / name).words == [*DENSITY, name]
    assert ran(neupol, place, "rerun", name).stdout == f"{name}: equal\n"
    ran(neupol, place, "rerun", name, "-o", "new.cube")
    assert (place / "new.cube").read_bytes() == (place / name).read_bytes()
    assert (place / "new.cube.provenance").read_bytes() == beside.read_bytes()
    lines = (place / name).read_text().splitlines()[:2]
    assert lines[0].startswith(f"water.xyz electron density by neupol {__version__}: density ")
    assert len(lines[0]) == 80 and lines[0].endswith("...") and len(lines[1]) <= 80
    record = json.loads(beside.read_text())
    assert record["provenance"]["inputs"] == {"water.xyz": checksum(place / "water.xyz")}
    beside.write_text(json.dumps({**record, "sha256": "0" * 64}))
    assert "is of another file than" in refused(neupol, place, name, 65)
    beside.write_text("{}")
    assert "does not say which command" in refused(neupol, place, name, 65)
    beside.unlink()
    assert "had no room for its whole command line" in refused(neupol, place, name, 65)
    ran(neupol, place, *DENSITY, "short.cube")
    assert not (place / "short.cube.provenance").exists()


def test_names_are_as_typed(neupol: Any, place: Path) -> None:
    """Blanks, quotes, backslashes and other alphabets too, in every format."""
    odd = 'ä "b" \\c\'d%20.xyz'
    (place / odd).write_text(WATER)
    for output in ("p.h5", "p.extxyz", "p.csv"):
        ran(neupol, place, "predict", odd, "-m", "./it.safetensors", "-o", f"./{output}")
        said = records.read(place / output)
        assert list(said.inputs) == [odd] and list(said.models) == ["./it.safetensors"]
        assert ran(neupol, place, "rerun", output).stdout == f"{output}: equal\n"
    (place / 'ä"').write_text(WATER)
    for source, output in ((odd, "CHGCAR"), ('ä"', "d.cube")):
        ran(neupol, place, "density", source, "--grid", "9,9,9", "-o", output)
        assert ran(neupol, place, "rerun", output).stdout == f"{output}: equal\n"


def test_a_pipe_is_piped_in_again(neupol: Any, place: Path) -> None:
    words = ("predict", "-", "-m", "it.safetensors", "-o", "p.h5")
    ran(neupol, place, *words, input=WATER)
    assert records.read(place / "p.h5").inputs == {"-": sha256(WATER.encode()).hexdigest()}
    assert ran(neupol, place, "rerun", "p.h5", input=WATER).stdout == "p.h5: equal\n"
    done = neupol("rerun", "p.h5", input=WATER * 2, cwd=place)
    assert done.returncode == 65 and "was made of other inputs" in done.stderr


def test_what_was_printed(neupol: Any, place: Path) -> None:
    printed = ran(neupol, place, "predict", "two.xyz", "-m", "it.safetensors", "--json").stdout
    records_ = [json.loads(line) for line in printed.splitlines()]
    assert ["provenance" in record for record in records_] == [True, False]
    (place / "p.jsonl").write_text(printed)
    assert ran(neupol, place, "rerun", "p.jsonl").stdout == "p.jsonl: equal\n"


def test_a_config_is_an_input(neupol: Any, place: Path) -> None:
    (place / "it.toml").write_text('model = "it.safetensors"\noutput = "p.h5"\n')
    ran(neupol, place, "predict", "water.xyz", "--config", "it.toml")
    assert set(records.read(place / "p.h5").inputs) == {"it.toml", "water.xyz"}
    assert ran(neupol, place, "rerun", "p.h5").stdout == "p.h5: equal\n"
    (place / "it.toml").write_text('model = "it.safetensors"\noutput = "p.h5"\nforces = true\n')
    assert refused(neupol, place, "p.h5", 65) == (
        "neupol: it.toml: has changed since p.h5 was made of it (SHA-256)\n"
    )


def refused(neupol: Any, place: Path, name: str, code: int) -> str:
    done = neupol("rerun", name, cwd=place)
    assert done.returncode == code and not done.stdout and len(done.stderr.splitlines()) == 1
    return str(done.stderr)


def test_what_has_changed(neupol: Any, place: Path, untrained: Any) -> None:
    name = "p.h5"
    ran(neupol, place, *PREDICT, name)
    shutil.copy(place / name, place / "moved.h5")
    assert ran(neupol, place, "rerun", "moved.h5").stdout == "moved.h5: equal\n"
    (place / "two.xyz").write_text(WATER * 3)
    assert "two.xyz: has changed since p.h5 was made" in refused(neupol, place, name, 65)
    (place / "two.xyz").unlink()
    assert "two.xyz: is not there any more" in refused(neupol, place, name, 65)
    (place / "two.xyz").write_text(WATER * 2)
    shutil.copy(untrained(seed=9), place / "it.safetensors")
    assert "it.safetensors: is not the model any more" in refused(neupol, place, name, 78)
    (place / "it.safetensors").unlink()
    assert "it.safetensors: neither a file" in refused(neupol, place, name, 65)


def test_a_cube_whose_structure_or_model_changed(neupol: Any, place: Path) -> None:
    """Of them it has digits only, and they are compared in the end."""
    ran(neupol, place, *DENSITY, "d.cube")
    text = (place / "d.cube").read_text()
    (place / "water.xyz").write_text(WATER + "\n")
    assert "d.cube: was made of other inputs" in refused(neupol, place, "d.cube", 65)
    (place / "water.xyz").write_text(WATER)
    digits = checksum(registry.bundled()["density"])[:8]
    (place / "d.cube").write_text(text.replace(digits, "01234567"))
    assert "d.cube: was made by another model" in refused(neupol, place, "d.cube", 78)


def test_another_version_and_another_content(neupol: Any, place: Path) -> None:
    ran(neupol, place, *PREDICT, "p.csv")
    text = (place / "p.csv").read_text()
    (place / "p.csv").write_text(text.replace("H2O", "D2O"))
    assert refused(neupol, place, "p.csv", 65) == (
        "neupol: p.csv: is not equal to what its command makes here\n"
    )
    other = text.replace(f'""neupol"": ""{__version__}""', '""neupol"": ""0.0.1""')
    (place / "p.csv").write_text(other)
    assert "p.csv: was made by neupol 0.0.1, this is" in refused(neupol, place, "p.csv", 65)


@pytest.mark.parametrize(
    "content",
    ["", "3\nwater\n", '{"a": 1}\n', '{"provenance": 3}\n', "a,provenance\n", "[" * 9000,
     '{"a":' * 9000, "3\nprovenance=3\n", '3\nprovenance="_JSON [["', "a,provenance\n\n",
     'x provenance={"neupol": 1}\n', "\x89HDF\r\n\x1a\n", "PK\x03\x04", "neupol 0.1.0: x\ny\n"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["it", "it.npz"])
def test_what_says_nothing(content: str, name: str, neupol: Any, place: Path) -> None:
    (place / name).write_text(content, encoding="latin-1")
    refused(neupol, place, name, 65)
    refused(neupol, place, "nothing", 65)


def test_several_outputs_are_told_by_their_names(neupol: Any, place: Path) -> None:
    words = ("density", "two.xyz", "--grid", "9,9,9", "-o", "d{}.cube", "--plot", "p{}.png")
    ran(neupol, place, *words)
    picture = (place / "p0.png").read_bytes()
    assert b"Description\0" in picture
    (place / "p0.png").unlink()
    assert ran(neupol, place, "rerun", "d1.cube").stdout == "d1.cube: equal\n"
    assert not (place / "p0.png").exists()
    (place / "d0.cube").rename(place / "other.cube")
    assert "its command writes d0.cube, d1.cube" in neupol("rerun", "other.cube", cwd=place).stderr


@pytest.fixture
def run(neupol: Any, place: Path) -> Path:
    """A run, as short as they are."""
    ran(neupol, place, "data", "xyz", "-", "-o", "h2.h5", "--partition", "8,2", input=FRAMES)
    words = ("fit", "egnn", "h2.h5", "--set", "hidden=8", "--steps", 3, "--batch-size", 4)
    ran(neupol, place, *words, "-o", "run")
    return place / "run"


def test_a_run_folder(neupol: Any, place: Path, run: Path) -> None:
    said = records.read(run)
    assert said.inputs == {"h2.h5": checksum(place / "h2.h5")} and said.models == {}
    assert said.command.endswith("--batch-size 4 -o run")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert ran(neupol, place, "rerun", "run").stdout == "run: equal\n"
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    ran(neupol, place, "rerun", "run", "-o", "new")
    for name in ("best.safetensors", "last.safetensors", "config.json"):
        assert (place / "new" / name).read_bytes() == before[name]
    done = neupol("rerun", "run", "-o", "new", cwd=place)
    assert done.returncode == 2 and "new: exists" in done.stderr
    assert registry.load(str(run)).header["training"]["neupol"] == __version__


def test_a_run_that_went_on_is_told(neupol: Any, place: Path, run: Path) -> None:
    """Its record is that of its beginning, for as long as options are the same."""
    begun = records.read(run)
    ran(neupol, place, "fit", "--resume", "-o", "run")
    assert records.read(run) == begun
    assert ran(neupol, place, "rerun", "run").stdout == "run: equal\n"
    ran(neupol, place, "fit", "--resume", "-o", "run", "--steps", 4)
    assert "run: was resumed with other options" in refused(neupol, place, "run", 65)


def test_a_run_by_the_clock(neupol: Any, place: Path, run: Path) -> None:
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(re.sub('"minutes": null', '"minutes": 1.0', text))
    assert "was limited by time" in refused(neupol, place, "run", 65)


def test_python_writes_no_record(place: Path) -> None:
    (label, atoms), *_ = structures.read([place / "water.xyz"])
    structures.write(place / "out.xyz", [atoms], [{}])
    assert label and "provenance" not in (place / "out.xyz").read_text()


def test_structures_that_moved(neupol: Any, place: Path) -> None:
    words = ("two.xyz", "-m", "qm9", "--steps", "2")
    ran(neupol, place, "relax", *words, "-o", "r.extxyz", "--trajectory", "way.extxyz")
    before = (place / "way.extxyz").read_bytes()
    assert before.count(b"provenance=") == (place / "r.extxyz").read_bytes().count(b"provenance=")
    for name in ("r.extxyz", "way.extxyz"):
        assert ran(neupol, place, "rerun", name).stdout == f"{name}: equal\n"
    assert (place / "way.extxyz").read_bytes() == before
    ran(neupol, place, "vib", "water.xyz", "-m", "qm9", "--modes", "v.extxyz")
    assert ran(neupol, place, "rerun", "v.extxyz").stdout == "v.extxyz: equal\n"


def test_a_dynamics(neupol: Any, place: Path) -> None:
    words = ("md", "two.xyz", "-m", "qm9", "--ensemble", "nvt", "--every", "1", "-o", "run")
    ran(neupol, place, *words, "--steps", "3")
    before = {path.name: path.read_bytes() for path in (place / "run").iterdir()}
    assert ran(neupol, place, "rerun", "run").stdout == "run: equal\n"
    ran(neupol, place, "rerun", "run", "-o", "new")
    assert {path.name: path.read_bytes() for path in (place / "new").iterdir()} == before
    log = place / "run" / "energies-1.tsv"
    log.write_text(log.read_text() + "\n")
    assert "run: is not equal" in neupol("rerun", "run", cwd=place).stderr
    ran(neupol, place, "md", "--resume", "-o", "run", "--steps", "4")
    assert "run: was resumed with other options" in refused(neupol, place, "run", 65)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("neupol rerun it.json", "is no command of neupol that makes an output"),
        ("neupol predict 'water.xyz", "is no command of neupol that makes an output"),
        ("", "is no command of neupol that makes an output"),
        ("neupol", "is no command of neupol that makes an output"),
        ("rm -r water.xyz", "is no command of neupol that makes an output"),
        ("neupol --version", "it.json: its command makes nothing like it"),
        (
            "neupol predict water.xyz -m it.safetensors -o other.h5",
            "it.json: its command makes nothing like it",
        ),
    ],
)
def test_a_command_that_cannot_have_made_it(
    command: str, reason: str, neupol: Any, place: Path
) -> None:
    record = {"neupol": __version__, "command": command, "models": {}, "inputs": {}}
    (place / "it.json").write_text(json.dumps({"provenance": record}))
    assert reason in refused(neupol, place, "it.json", 65)
    assert sorted(path.name for path in place.iterdir()) == [
        "it.json", "it.safetensors", "two.xyz", "water.xyz"
    ]  # fmt: skip


@pytest.mark.parametrize("magic", [b"\x1f\x8b nonsense", b"BZh nonsense", b"\xfd7zXZ\0nonsense"])
def test_a_compressed_file_that_is_damaged(magic: bytes, neupol: Any, place: Path) -> None:
    (place / "it.cube.gz").write_bytes(magic)
    assert "it.cube.gz: the compressed file is not whole" in refused(
        neupol, place, "it.cube.gz", 65
    )


@pytest.mark.parametrize("name", ["p.png", "p.svg", "p.pdf", "p.html"])
def test_pictures_are_made_again(name: str, neupol: Any, place: Path) -> None:
    odd = place / "wa (1) & \\2<.xyz"
    (place / "water.xyz").rename(odd)
    words = ("density", odd.name, "--grid", "9,9,9", "-o", "d.cube", "--plot", name)
    ran(neupol, place, *words)
    said = records.read(place / name)
    assert shlex.split(said.command) == ["neupol", *words]
    assert said.inputs == {odd.name: checksum(odd)}
    assert ran(neupol, place, "rerun", name).stdout == f"{name}: equal\n"
    (place / "t.xyz").write_text(WATER)
    ran(neupol, place, "trajectory", "t.xyz", "-m", "points-homo", "--plot", name)
    assert ran(neupol, place, "rerun", name).stdout == f"{name}: equal\n"
    (place / name).write_bytes(b"nothing")
    assert "does not say which command" in refused(neupol, place, name, 65)
