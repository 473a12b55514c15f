"""MOPAC's inputs, archives and outputs: what is Cartesian is read, what is not is refused."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian

from neupol_cli.errors import InputError
from neupol_cli.io import structures
from tests.conftest import DATA

ATOMS = "O 0.0 +1 0.0 +1 0.119 +1\nH 0.0 1 0.763 1 -0.477 1\nH 0.0 +1 -0.763 +1 -0.477 +1\n"
INPUT = f"PM7 CHARGE=-1 DOUBLET\nwater\n\n{ATOMS}\n"
PLACES = [[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]]


def kept(name: str) -> str:
    return gzip.decompress((DATA / "foreign" / "MOPAC" / f"{name}.gz").read_bytes()).decode()


def read(folder: Path, text: str, name: str = "a.mop") -> list[Atoms]:
    (folder / name).write_text(text)
    return [atoms for _, atoms in structures.read([folder / name])]


def refused(folder: Path, text: str, name: str = "a.mop") -> str:
    with pytest.raises(InputError) as caught:
        read(folder, text, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_input_with_charge_and_multiplicity(tmp_path: Path) -> None:
    for name in ("a.mop", "a.dat", "water", "a.mop.out"):  # by its name, or by its keywords
        (atoms,) = read(tmp_path, INPUT, name)
        assert atoms.get_chemical_symbols() == ["O", "H", "H"]
        np.testing.assert_array_equal(atoms.positions, PLACES)
        assert atoms.info == {"charge": -1, "multiplicity": 2}
        assert not atoms.pbc.any() and not atoms.constraints


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("PM7 CHARGE=-1 DOUBLET\n", "* PM7\npm7 charge=-1 ms=-0.5\n"),
        ("PM7 CHARGE=-1 DOUBLET\n", "PM7 + \n CHARGE=-1 DOUBLET\n"),
        ("PM7 CHARGE=-1 DOUBLET\n", "PM7 ++\nCHARGE=-1 ++\nDOUBLET\n"),
        ("PM7 CHARGE=-1 DOUBLET\nwater\n", "PM7 & \n CHARGE=-1 DOUBLET\n"),
        ("H 0.0 1 0.763 1 -0.477 1", "* H\n1, 0.0, 1, 0.763D0, 1, -0.477, 1"),
        ("H 0.0 1 0.763 1 -0.477 1", "H(HW 1) 0.0 0.763 -0.477"),
        ("H 0.0 1 0.763 1 -0.477 1", "H 0.0 1 0.763 1 -0.477 1 0 0 0 0.25"),
        ("H 0.0 1 0.763 1 -0.477 1", "H 0.0 1 0.763 1 -0.477 1 -0.25"),
        ("1\n\n", "1\n0 0.0 0 0.0 0 0.0 0\n\n"),
        ("PM7 ", "PM7 PRTXYZ SYMOIR "),
    ],
)
def test_spellings_of_an_input(tmp_path: Path, old: str, new: str) -> None:
    assert old in INPUT
    (atoms,) = read(tmp_path, INPUT.replace(old, new, 1))
    np.testing.assert_array_equal(atoms.positions, PLACES)
    assert atoms.info == {"charge": -1, "multiplicity": 2}
    assert atoms.numbers.tolist() == [8, 1, 1]


def test_flags_isotopes_and_translation_vectors(tmp_path: Path) -> None:
    text = INPUT.replace("+1\nH 0.0 1 0.763 1", "+1\nD 0.0 0 0.763 1").replace(
        "O 0.0 +1 0.0 +1 0.119 +1", "O18.0 0 0 0 0 0.119 0"
    )
    tv = ["Tv 6.0 1 0.0 0 0.5 0\n", "Tv 0.0 0 7.0 1 0.0 0\n", "tv 0.0 0 0.0 0 8.0 1\n"]
    for count in range(4):
        (atoms,) = read(tmp_path, text[:-1] + "".join(tv[:count]) + "\n")
        assert len(atoms) == 3 and atoms.pbc.tolist() == [axis < count for axis in range(3)]
        expected = np.array([[6.0, 0, 0.5], [0, 7.0, 0], [0, 0, 8.0]])[:count]
        np.testing.assert_array_equal(atoms.cell.array[:count], expected)
    np.testing.assert_array_equal(atoms.positions, PLACES)
    assert atoms.numbers.tolist() == [8, 1, 1]
    np.testing.assert_allclose(atoms.get_masses(), [18.0, 2.01410177811, 1.008], rtol=0, atol=1e-3)
    whole, part = atoms.constraints
    assert isinstance(whole, FixAtoms) and whole.index.tolist() == [0]
    assert isinstance(part, FixCartesian) and part.index.tolist() == [1]
    assert np.asarray(part.mask).tolist() == [True, False, False]


INTERNAL = "internal coordinates are not read"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (ATOMS, "O\nH 0.96 1\nH 0.96 1 104.5 1\n", f"a.mop:4: {INTERNAL}"),
        ("-0.477 1\n", "-0.477 1 1 0 0\n", f"a.mop:5: {INTERNAL}"),
        ("-0.477 1\n", "-0.477 1 1 0 0 0.25\n", f"a.mop:5: {INTERNAL}"),
        (ATOMS, "O 0 0 0 0 0 0\nH 0.96 1 0 0 0 0\nH 0.96 1 104.5 1 0 0\n", f"a.mop:6: {INTERNAL}"),
        ("0.763 1 -0.477 1", "0.763 -1 -0.477 1", "a.mop:5: flags of optimization are 0 or 1"),
        ("0.763 1 -0.477 1", "0.763 1 -0.477", f"a.mop:5: {INTERNAL}"),
        ("0.763 1 -0.477 1", "nan 1 -0.477 1", "a.mop:5: 'nan' is not finite"),
        ("0.763 1 -0.477 1", "0.763 1-0.477 1", "a.mop:5"),
        ("H 0.0 1", "XX 0.0 1", "a.mop:5: 'XX' is not an element"),
        ("H 0.0 1", "Tv 0.0 1", "expected atoms and up to three vectors Tv behind them"),
        ("1\n\n", "1\n" + "Tv 9.0 1 0 1 0 1\n" * 4 + "\n", "up to three vectors"),
        ("1\n\n", "1\n\nPM7\nb\n\nHe 0.0 1 0.0 1 0.0 1\n", "a.mop:8: expected nothing behind"),
        (ATOMS, "", "no atoms behind the keywords and two titles"),
        ("CHARGE=-1", "CHARGE=-0.5", "a.mop:1: CHARGE=-0.5 is of no whole number"),
        ("CHARGE=-1", "CHARGE=one", "a.mop:1: CHARGE=ONE: 'ONE' is not a number"),
        ("PM7", "PM7 A0", "a.mop:1: keyword A0: lengths in bohr are not read"),
        ("PM7", "PM7 SYMMETRY", "keyword SYMMETRY: coordinates that depend on others"),
        ("PM7", 'PM7 GEO_DAT="b.mop"', "keyword GEO_DAT: atoms or keywords of other files"),
        ("PM7", "PM7 AIGIN", "keyword AIGIN: internal coordinates"),
        ("PM7", "PM7 ADD-H", "keyword ADD-H: MOPAC would add atoms"),
    ],
)  # fmt: skip
def test_inputs_that_are_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in INPUT
    assert says in refused(tmp_path, INPUT.replace(old, new, 1))


def test_an_input_without_its_last_line_end_is_doubted(tmp_path: Path, capsys) -> None:
    read(tmp_path, INPUT)
    assert capsys.readouterr().err == ""
    read(tmp_path, INPUT.rstrip("\n"))
    assert "may have been cut short" in capsys.readouterr().err


def test_an_output_ends_in_its_final_geometry(tmp_path: Path) -> None:
    """Not in the first one, which is printed alike."""
    (output,) = read(tmp_path, kept("water.out"), "a.out")
    (archive,) = read(tmp_path, kept("water.arc"), "a.arc")
    (told,) = read(tmp_path, kept("water.mop"))
    np.testing.assert_array_equal(output.positions, archive.positions)
    assert output.info == archive.info == told.info == {"charge": 0, "multiplicity": 1}
    moved = np.linalg.norm(output.positions - told.positions, axis=1)
    assert 0.001 < moved.max() < 0.1
    (box,) = read(tmp_path, kept("box.out"), "a.out")
    np.testing.assert_array_equal(box.cell.array, np.diag([6.0, 6.4, 5.6]))
    assert box.pbc.all() and "charge" not in box.info


def test_a_job_in_internal_coordinates_has_a_cartesian_table(tmp_path: Path) -> None:
    text = kept("water.out")
    (plain,) = read(tmp_path, text, "a.out")
    start = text.rindex("   ATOM   CHEMICAL")
    end = text.rindex("                             CARTESIAN COORDINATES")
    (found,) = read(tmp_path, text[:start] + text[end:], "a.out")
    np.testing.assert_allclose(found.positions, plain.positions, rtol=0, atol=1e-8)
    box = kept("box.out")
    box = box[: box.rindex("   ATOM   CHEMICAL")] + box[box.rindex("       CARTESIAN COORD") :]
    assert INTERNAL in refused(tmp_path, box, "a.out")


def test_every_job_of_an_output_and_of_an_archive(tmp_path: Path) -> None:
    for ending in ("out", "arc"):
        images = read(
            tmp_path, kept(f"water.{ending}") + "\n" + kept(f"box.{ending}"), f"a.{ending}"
        )
        assert [atoms.pbc.all() for atoms in images] == [False, True]
    bad = kept("water.out").replace("FINAL HEAT", "LATEST HEAT")
    (tmp_path / "a.out").write_text(bad + "\n" + kept("box.out"))
    errors: list[InputError] = []
    found = list(structures.read([tmp_path / "a.out"], "skip", report=errors.append))
    assert len(found) == 1 and found[0][1].pbc.all()
    assert "0 times FINAL HEAT OF FORMATION in a job" in str(errors[0])


@pytest.mark.parametrize("name", ["water.out", "box.out", "water.arc", "box.arc"])
def test_no_prefix_is_half_read(name: str, tmp_path: Path) -> None:
    text = kept(name)
    (whole,) = read(tmp_path, text, "a." + name[-3:])
    mark = max(text.rfind("FINAL HEAT"), text.rfind("FINAL GEOM"))
    for cut in [*range(0, mark, 97), *range(mark, len(text), 2)]:
        try:
            (atoms,) = read(tmp_path, text[:cut], "a." + name[-3:])
        except InputError:
            continue
        np.testing.assert_array_equal(atoms.positions, whole.positions)
        np.testing.assert_array_equal(atoms.cell.array, whole.cell.array)


def test_what_is_no_output_with_coordinates_is_refused(tmp_path: Path) -> None:
    text = kept("water.out")
    old = text.replace("CALCULATION DONE:", "VERSION  7.01")
    assert "is not of MOPAC 2012 or later" in refused(tmp_path, old, "a.out")
    path = " ARCHIVE FILE FOR PATH CALCULATION\nA PROFILE OF COORDINATES - HEATS\n"
    assert "without FINAL GEOMETRY OBTAINED" in refused(tmp_path, path, "a.arc")
    start = text.rindex("   ATOM   CHEMICAL")
    end = text.index("           Empirical Formula", start)
    assert "no Cartesian" in refused(tmp_path, text[:start] + text[end:], "a.out")
    starred = text[:start] + re.sub(r"\d\.\d{8}", "*" * 10, text[start:], count=1)
    assert "expected an atom's row" in refused(tmp_path, starred, "a.out")


def test_other_programs_files_are_not_taken_for_mopacs(tmp_path: Path) -> None:
    gaussian = (
        "# PM6 opt\n\nwater\n\n0 1\nO 0.0 0.0 0.119\nH 0.0 0.763 -0.477\nH 0.0 -0.763 -0.477\n\n"
    )
    (atoms,) = read(tmp_path, gaussian, "a.com")
    np.testing.assert_array_equal(atoms.positions, PLACES)
    xyz = "3\nPM7 CHARGE=-1\nO 0.0 0.0 0.119\nH 0.0 0.763 -0.477\nH 0.0 -0.763 -0.477\n"
    (atoms,) = read(tmp_path, xyz, "water.dat")
    np.testing.assert_array_equal(atoms.positions, PLACES)
