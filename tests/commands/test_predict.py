"""neupol predict as a user runs it: files, pipes, several models, and what can be wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import ase.io
import numpy as np
import pytest

from neupol_cli import registry
from neupol_cli.io import hdf5
from tests.warm import shell

WATER = "3\nwater\nO 0 0 0.119\nH 0 0.763 -0.477\nH 0 -0.763 -0.477\n"
HF = "2\n\nH 0 0 0\nF 0 0 0.92\n"


@pytest.fixture(scope="module")
def model(untrained) -> Path:
    return untrained(seed=0)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    one, two = tmp_path / "a.xyz", tmp_path / "b.xyz"
    one.write_text(WATER)
    two.write_text(HF + WATER)
    return one, two


def records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_lines_carry_values_units_and_names(neupol, model, files) -> None:
    done = neupol("predict", *files, "-m", model, "--json")
    assert done.returncode == 0, done.stderr
    found = records(done.stdout)
    assert [r["formula"] for r in found] == ["H2O", "HF", "H2O"]
    assert [r["structure"] for r in found] == [str(files[0]), f"{files[1]}#0", f"{files[1]}#1"]
    assert found[0]["properties"] == found[2]["properties"]
    assert found[0]["properties"]["U0"]["unit"] == "eV"
    loaded = registry.load(str(model))
    wanted = loaded.predict([ase.io.read(files[0])])["mu"][0]
    assert found[0]["properties"]["mu"] == {"value": wanted, "unit": "D"}


def test_a_pipe_gets_tab_separated_lines(neupol, model) -> None:
    done = neupol("predict", "-", "-m", model, input=WATER + HF)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert rows[0] == ["structure", "formula", "U0 [eV]", "mu [D]", "info"]
    assert [row[:2] for row in rows[1:]] == [["-#0", "H2O"], ["-#1", "HF"]]


def test_several_models_give_mean_and_spread(neupol, model, files, untrained) -> None:
    other = untrained(seed=1)
    done = neupol("predict", files[0], "-m", model, "-m", other, "--json")
    assert done.returncode == 0, done.stderr
    said = [registry.load(str(m)).predict([ase.io.read(files[0])])["U0"][0] for m in (model, other)]
    found = records(done.stdout)[0]["properties"]["U0"]
    assert abs(found["value"] - np.mean(said)) < 1e-12
    assert abs(found["spread"] - np.std(said, ddof=1)) < 1e-12


def test_models_in_different_units_are_not_averaged(neupol, model, files, untrained) -> None:
    other = untrained(units=("Ha", "D"))
    done = neupol("predict", files[0], "-m", model, "-m", other)
    assert done.returncode == 65
    assert "U0 is in Ha, elsewhere in eV" in done.stderr


def test_forces_are_the_models_gradient(neupol, model, files) -> None:
    done = neupol("predict", files[0], "-m", model, "--json", "--forces")
    forces = records(done.stdout)[0]["forces"]
    assert forces["unit"] == "eV/Angstrom"
    assert np.shape(forces["value"]) == (3, 3)
    np.testing.assert_allclose(np.sum(forces["value"], 0), 0, rtol=0, atol=1e-6)


def test_forces_of_a_model_without_an_energy_are_refused(neupol, files, untrained) -> None:
    other = untrained(targets=("mu", "homo"), units=("D", "eV"))
    done = neupol("predict", files[0], "-m", other, "--forces")
    assert done.returncode == 65
    assert "forces need an energy" in done.stderr and "mu, homo" in done.stderr


@pytest.mark.parametrize("ending", ["extxyz", "csv", "h5", "json"])
def test_files_hold_what_is_printed(neupol, model, files, tmp_path: Path, ending: str) -> None:
    printed = records(neupol("predict", *files, "-m", model, "--json").stdout)
    out = tmp_path / f"out.{ending}"
    flags = ["--json"] if ending == "json" else []
    done = neupol("predict", *files, "-m", model, "-o", out, *flags)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    readers = {
        "extxyz": lambda: [a.info["U0_eV"] for a in ase.io.read(out, ":")],
        "csv": lambda: [float(r["U0 [eV]"]) for r in csv.DictReader(out.open())],
        "h5": lambda: list(hdf5.read(out).targets["U0"].values),
        "json": lambda: [r["properties"]["U0"]["value"] for r in records(out.read_text())],
    }
    wanted = [r["properties"]["U0"]["value"] for r in printed]
    np.testing.assert_allclose(readers[ending](), wanted, rtol=0, atol=1e-6)
    assert not list(tmp_path.glob("*.partial"))


RECORD = """{title}

     a comment
  2  1  0     0  0            999 V2000
    0.0000    0.0000    0.0000 H   0  0
    0.0000    0.0000    0.9{k:03d} F   0  0
  1  2  1  0
M  END
> <ID>
X-{k:03d}

> <measured>
{k}.5

$$$$
"""


def test_ids_and_values_of_an_sdf_travel_into_answers(neupol, model, tmp_path: Path) -> None:
    sdf = tmp_path / "library.sdf"
    sdf.write_text("".join(RECORD.format(title=f"name {k}", k=k) for k in range(40)))
    done = neupol("predict", sdf, "-m", model, "--json")
    assert done.returncode == 0, done.stderr
    infos = [record["info"] for record in records(done.stdout)]
    for ending in ("csv", "extxyz"):
        assert neupol("predict", sdf, "-m", model, "-o", tmp_path / f"o.{ending}").returncode == 0
    rows = list(csv.DictReader((tmp_path / "o.csv").open()))
    frames = ase.io.read(tmp_path / "o.extxyz", ":")
    for found in (infos, rows, [atoms.info for atoms in frames]):
        names = [(one["ID"], float(one["measured"]), one["comment"]) for one in found]
        assert names == [(f"X-{k:03d}", k + 0.5, f"name {k}") for k in range(40)]


def test_what_a_file_says_is_plain_json(neupol, model, tmp_path: Path) -> None:
    """And is not taken for what an answer says under the same name."""
    said = 'formula=mine matrix="1 2 3 4 5 6 7 8 9" odd=nan flag=T U0_eV=1.5'
    text = WATER.replace("water", f"Properties=species:S:1:pos:R:3 {said}")
    done = neupol("predict", "-", "-m", model, "--json", input=text)
    assert done.returncode == 0, done.stderr
    (record,) = [json.loads(done.stdout, parse_constant=pytest.fail)]
    assert record["formula"] == "H2O" and record["info"]["formula"] == "mine"
    assert record["info"]["flag"] is True and record["info"]["odd"] == "nan"
    assert np.size(record["info"]["matrix"]) == 9 and record["info"]["U0_eV"] == 1.5
    out = tmp_path / "o.csv"
    done = neupol("predict", "-", "-m", model, "-o", out, input=text + HF)
    assert done.returncode == 0, done.stderr
    first, second = csv.DictReader(out.open())
    assert (first["formula"], first["formula (input)"]) == ("H2O", "mine")
    assert (second["formula"], second["formula (input)"], second["odd"]) == ("HF", "", "")


BAD = {
    "truncated": WATER[:40],
    "NaN": WATER.replace("0.119", "nan"),
    "unknown element": WATER.replace("O 0", "Qq 0"),
    "an element the model never saw": WATER.replace("O 0", "Fe 0"),
    "empty": "",
    "two atoms on one spot": WATER.replace("-0.763", "0.763"),
    "absurd count": WATER.replace("3\n", "99999999999\n", 1),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line_and_65(neupol, model, tmp_path: Path, what: str) -> None:
    bad = tmp_path / "bad.xyz"
    bad.write_text(BAD[what])
    out = tmp_path / "old.csv"
    out.write_text("as it was")
    done = neupol("predict", bad, "-m", model, "-o", out)
    assert done.returncode == 65
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert str(bad) in done.stderr
    assert out.read_text() == "as it was"


def test_one_bad_structure_does_not_stop_the_others(neupol, model) -> None:
    mixed = HF + WATER.replace("O 0", "Fe 0") + WATER.replace("0.119", "inf") + WATER
    done = neupol("predict", "-", "-m", model, "--on-error", "skip", "--json", input=mixed)
    assert done.returncode == 0
    assert [r["structure"] for r in records(done.stdout)] == ["-#0", "-#3"]
    assert "Fe" in done.stderr and "finite" in done.stderr
    stopped = neupol("predict", "-", "-m", model, "--json", input=mixed)
    assert stopped.returncode == 65


def test_a_reader_that_leaves_is_no_error(model) -> None:
    code = f"neupol predict - -m {model} --json | head -1"
    done = shell(f"set -o pipefail; {code}; echo ${{PIPESTATUS[0]}} >&2", input=WATER * 4000)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr.split() == ["141"]


def test_unknown_model_and_wrong_ending(neupol, model, files, tmp_path: Path) -> None:
    done = neupol("predict", files[0], "-m", "no-such-model")
    assert done.returncode == 65 and "neither a file" in done.stderr
    done = neupol("predict", files[0], "-m", model, "-o", tmp_path / "x.docx")
    assert done.returncode == 2 and ".extxyz" in done.stderr
    done = neupol("predict", files[0], "-m", model, "-o", tmp_path / "none" / "x.csv")
    assert done.returncode == 2


def test_a_damaged_or_foreign_checkpoint_is_refused(neupol, model, files, tmp_path: Path) -> None:
    data = bytearray(model.read_bytes())
    data[-5] ^= 1
    flipped = tmp_path / "flipped.safetensors"
    flipped.write_bytes(data)
    foreign = tmp_path / "foreign.pt"
    foreign.write_bytes(b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.")
    for path in (flipped, foreign):
        done = neupol("predict", files[0], "-m", path, cwd=tmp_path)
        assert done.returncode == 78, done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "pwned").exists()


def test_a_periodic_structure_among_molecules_is_named(neupol, model) -> None:
    crystal = '1\nLattice="3 0 0 0 3 0 0 0 3" pbc="T T T"\nO 0 0 0\n'
    mixed = HF + crystal + WATER
    done = neupol("predict", "-", "-m", model, "--json", input=mixed)
    assert done.returncode == 65
    assert "-#1: is periodic, and this model has no cutoff" in done.stderr
    done = neupol("predict", "-", "-m", model, "--json", "--on-error", "skip", input=mixed)
    assert done.returncode == 0 and "-#1" in done.stderr
    assert [r["structure"] for r in records(done.stdout)] == ["-#0", "-#2"]


def test_stresses_and_forces_are_kept_in_hdf5(neupol, untrained, tmp_path: Path) -> None:
    model = untrained(targets=("energy",), units=("eV",), cutoff=3.0)
    crystal = '2\nLattice="3 0 0 0 3 0 0.4 0 3" pbc="T T T"\nO 0 0 0\nH 0 0 1\n'
    out = tmp_path / "s.h5"
    call = ("predict", "-", "-m", model, "--forces", "--stress")
    assert neupol(*call, "-o", out, input=crystal + crystal).returncode == 0
    said = records(neupol(*call, "--json", input=crystal).stdout)[0]
    found = hdf5.read(out).targets
    assert found["stress"].values.shape == (2, 3, 3) and found["stress"].unit == "eV/Angstrom^3"
    np.testing.assert_allclose(found["stress"].values[1], said["stress"]["value"], atol=1e-9)
    np.testing.assert_allclose(found["forces"].values[:2], said["forces"]["value"], atol=1e-9)


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("predict a.xyz -m MODEL >&-", 74, "standard output is closed"),
        ("predict a.xyz -m MODEL --json >&-", 74, "standard output is closed"),
        ("predict a.xyz -m MODEL -o a.csv >&-", 0, ""),
        ("predict - -m MODEL <&-", 65, "is empty"),
        ("models >&-", 74, "standard output is closed"),
    ],
)
def test_closed_streams(model, tmp_path: Path, command: str, code: int, words: str) -> None:
    (tmp_path / "a.xyz").write_text(WATER)
    done = shell(f"neupol {command.replace('MODEL', str(model))}", cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "a.csv").exists() == ("a.csv" in command)


def test_an_element_of_the_test_part_alone_was_never_trained_on(neupol, tmp_path: Path) -> None:
    """The network has a place for it, since the file has it, but no idea of it."""
    frames = "".join(f"2\nenergy={k}\nO 0 0 0\nH 0 0 {0.9 + k / 50}\n" for k in range(8))
    (tmp_path / "a.xyz").write_text(frames)
    (tmp_path / "b.xyz").write_text("1\nenergy=3\nN 0 0 0\n")
    data, run = tmp_path / "a.h5", tmp_path / "run"
    words = ("--test", tmp_path / "b.xyz", "--partition", "6,2")
    assert neupol("data", "xyz", tmp_path / "a.xyz", "-o", data, *words).returncode == 0
    network = ("--set", "layers=1", "--set", "hidden=8", "--steps", 2, "--batch-size", 2)
    assert neupol("fit", "egnn", data, "-o", run, *network).returncode == 0
    done = neupol("predict", tmp_path / "b.xyz", "-m", run)
    assert done.returncode == 65
    assert "atom 1 is N; this model was trained on H O only" in done.stderr
    assert neupol("predict", tmp_path / "a.xyz", "-m", run).returncode == 0
