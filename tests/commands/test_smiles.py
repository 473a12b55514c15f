"""SMILES as a user has them: words, lists and tables through every command with structures."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import ase.io
import h5py
import pytest

from neupol_cli.io.structure_formats import smiles
from tests.test_threads import without_record
from tests.warm import ROOT, neupol

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
NOTE = f"neupol: {smiles.NOTE}"


def records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_word_is_predicted_as_its_geometry_is(tmp_path: Path) -> None:
    done = neupol("predict", ASPIRIN, "--json")
    assert done.returncode == 0, done.stderr
    (said,) = records(done.stdout)
    assert (said["structure"], said["formula"]) == (ASPIRIN, "C9H8O4")
    out = tmp_path / "a.extxyz"
    assert neupol("predict", ASPIRIN, "-o", out).returncode == 0
    atoms = ase.io.read(out)
    assert atoms.info["smiles"] == ASPIRIN
    assert atoms.info["U0_eV"] == pytest.approx(said["properties"]["U0"]["value"], abs=1e-6)
    again = records(neupol("predict", out, "--json").stdout)[0]
    assert again["properties"]["U0"]["value"] == pytest.approx(
        said["properties"]["U0"]["value"], abs=1e-3
    )


def test_names_ids_and_columns_travel_into_structures(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('ID,Smiles,name,logP\nx1,CCO,"ethanol, dry",-0.31\n2,C,,1\n')
    out = tmp_path / "o.extxyz"
    done = neupol("predict", tmp_path / "a.csv", "-o", out)
    assert (done.returncode, done.stdout) == (0, "")
    first, second = ase.io.read(out, ":")
    wanted = {"ID": "x1", "name": "ethanol, dry", "logP": -0.31, "smiles": "CCO"}
    assert {key: first.info[key] for key in wanted} == wanted
    assert "name" not in second.info and second.info["ID"] == 2
    assert not any("doubts of" in key for key in first.info)
    said = records(neupol("predict", tmp_path / "a.csv", "--json").stdout)
    assert [one["info"] for one in said] == [wanted, {"ID": 2, "logP": 1, "smiles": "C"}]
    table = tmp_path / "o.csv"
    assert neupol("predict", tmp_path / "a.csv", "-o", table).returncode == 0
    rows = [[row[name] for name in (*wanted, "formula")] for row in csv.DictReader(table.open())]
    assert rows == [["x1", "ethanol, dry", "-0.31", "CCO", "C2H6O"], ["2", "", "1", "C", "CH4"]]


def test_doubts_reach_people_json_and_strict() -> None:
    done = neupol("predict", "CC(O)N", "--json")
    doubt = "one of up to 2 stereoisomers that its SMILES allows: C[C@"
    note, line = done.stderr.splitlines()
    assert note == NOTE and line.startswith(f"neupol: CC(O)N: doubtful: {doubt}")
    assert records(done.stdout)[0]["doubts"][0].startswith(doubt)
    done = neupol("predict", "CC(O)N", "--strict")
    assert done.returncode == 65 and doubt in done.stderr
    settled = neupol("predict", "C[C@H](O)C", "CCO", "--strict")
    assert settled.returncode == 0 and settled.stderr == f"{NOTE}\n"


def test_a_model_that_knows_no_domain_passes_doubts_on(untrained, tmp_path: Path) -> None:
    model = untrained(seed=3)
    words = ["predict", "CCO", "CC(O)N", "-m", model]
    done = neupol(*words, "--json")
    assert done.returncode == 0 and "CC(O)N: doubtful: one of up to 2" in done.stderr
    first, second = records(done.stdout)
    assert "doubts" not in first and len(second["doubts"]) == 1
    assert neupol(*words, "-o", tmp_path / "o.h5").returncode == 0
    assert neupol("predict", tmp_path / "o.h5", "-m", model).returncode == 0


def test_charges_and_radicals_meet_the_models_rules() -> None:
    done = neupol("predict", "[NH4+]")
    assert done.returncode == 65
    assert done.stderr.splitlines()[-1] == (
        "neupol: [NH4+]: has charge +1, the model was trained on 0"
    )
    done = neupol("predict", "[CH3]")
    assert done.returncode == 65
    assert "has multiplicity 2, the model was trained on 1" in done.stderr


def test_a_broken_word_is_one_line_that_names_both() -> None:
    for command in (["predict"], ["trajectory", "-m", "points-homo"], ["density", "-o", "x.cube"]):
        done = neupol(command[0], "C1CC", *command[1:])
        wanted = "neupol: C1CC: no such file, and as a SMILES it cannot be read by RDKit\n"
        assert (done.returncode, done.stderr) == (65, wanted)
        done = neupol(command[0], "nothing.here", *command[1:])
        wanted = "neupol: nothing.here: no such file, and no SMILES\n"
        assert (done.returncode, done.stderr) == (65, wanted)


def molecules() -> list[str]:
    """480 small ones: chains and rings between two groups."""
    heads = ("O", "N", "F", "N#C", "O=C", "OC(=O)", "NC(=O)", "CO", "C=C", "C#C")
    tails = ("O", "N", "F", "C#N", "C=O", "C(=O)O", "C(=O)N", "OC")
    middles = ("C", "CC", "CCC", "CC(C)C", "C1CC1", "c1ccccc1")
    return [head + middle + tail for middle in middles for head in heads for tail in tails]


def test_a_long_pipe_with_broken_lines_is_answered_in_order_on_any_threads() -> None:
    good = molecules()
    broken = (
        "C1CC",
        "c1ccccc",
        "C(C)(C)(C)(C)C",
        "*C",
        "CC>>C",
        "not_one",
        "C(",
        "[Zz]",
        "C(C",
        "[C",
    )
    lines = [f"{word} mol{k}" for k, word in enumerate(good)]
    places = [24 * k + 7 for k in range(20)]
    for k, place in enumerate(places):
        lines.insert(place, f"{broken[k % 10]} bad{k}")
    words = ["predict", "-", "--json", "--on-error", "skip", "-m", "points-homo"]
    answers = []
    for threads in ("1", "3"):
        done = neupol(*words, "--threads", threads, input="\n".join(lines))
        assert done.returncode == 0
        skipped = [line for line in done.stderr.splitlines() if line.endswith("(skipped)")]
        assert [int(line.split(":")[2]) for line in skipped] == [place + 1 for place in places]
        answers.append(done.stdout)
    one, other = ([without_record(line) for line in text.splitlines()] for text in answers)
    assert one == other
    numbers = [int(r["structure"].removeprefix("-#")) for r in records(answers[0])]
    assert numbers == [k for k in range(500) if k not in places]


def test_a_density_of_a_word(tmp_path: Path) -> None:
    out = tmp_path / "o.cube"
    words = ["--spacing", "0.4", "--json", "-o", out]
    done = neupol("density", "CC(O)N", *words)
    assert done.returncode == 0, done.stderr
    (said,) = records(done.stdout)
    assert said["structure"] == "CC(O)N"
    assert said["doubts"][0].startswith("one of up to 2 stereoisomers")
    assert out.read_text().splitlines()[0].startswith("CC(O)N electron density")
    done = neupol("density", "[OH-]", *words)
    assert records(done.stdout)[0]["electrons_expected"] == 8


def test_movable_points_of_words(tmp_path: Path) -> None:
    plots = tmp_path / "t.png", tmp_path / "t.html"
    for plot in plots:
        done = neupol("trajectory", "F/C=C/F", "c1cc[nH]c1", "--plot", plot, "-m", "points-homo")
        assert done.returncode == 0, done.stderr
        assert "c1cc[nH]c1, points-homo" in done.stdout  # [nH] is no style of a console's
        assert "F/C=C/F, points-homo" in done.stdout
    assert "F/C=C/F" in plots[1].read_text()


def test_a_dataset_of_a_table_with_labels(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("SMILES,gap_meas\nCCO,7.5\nC,10.5\nc1ccccc1,6.1\n")
    out = tmp_path / "o.h5"
    words = ["--target", "gap_meas=eV", "--partition", "1,1", "-o", out]
    done = neupol("data", "xyz", tmp_path / "a.csv", *words)
    assert done.returncode == 0, done.stderr
    with h5py.File(out) as file:
        assert list(file["targets/gap_meas"]) == [7.5, 10.5, 6.1]


def test_tables_on_a_terminal_show_the_whole_smiles() -> None:
    """Slashes are no folders there, and brackets no styles."""
    code = (
        "import sys; sys.stdout.isatty = lambda: True\n"
        "from neupol_cli import app\n"
        "sys.exit(app.run(['predict', 'F/C=C/F', 'c1cc[nH]c1', '-m', 'points-homo']))"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "F/C=C/F (C2H2F2)" in done.stdout and "c1cc[nH]c1 (C4H5N)" in done.stdout


def test_without_rdkit_one_line_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "rdkit").mkdir()
    (tmp_path / "rdkit/__init__.py").write_text("raise ImportError('not here')\n")
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    for word in ("CCO", "-"):
        command = [sys.executable, "-m", "neupol_cli", "predict", word]
        done = subprocess.run(
            command, env=env, input="CCO\n", capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.endswith("RDKit is not installed: pip install 'neupol[rdkit]'")


def test_a_table_out_is_a_table_in_if_it_has_smiles(tmp_path: Path) -> None:
    out, again = tmp_path / "o.csv", tmp_path / "again.csv"
    assert neupol("predict", "CCO", "-o", out, "-m", "points-homo").returncode == 0
    (row,) = csv.DictReader(out.open())
    assert (row["structure"], row["smiles"]) == ("CCO", "CCO")
    assert neupol("predict", out, "-o", again, "-m", "points-homo").returncode == 0
    (second,) = csv.DictReader(again.open())
    assert second["homo [eV]"] == second["homo [eV] (input)"] == row["homo [eV]"]
    assert second["structure (input)"] == "CCO"
    assert neupol("predict", ROOT / "examples/ethanol.xyz", "-o", out).returncode == 0
    done = neupol("predict", out)
    assert done.returncode == 65
    assert "o.csv:1: has no column 'smiles', only structure,formula" in done.stderr
