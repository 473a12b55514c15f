"""Files that programs wrote themselves (benchmarks/foreign.py), with what an independent reading
says of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from neupol_cli.io import structures, volumetric
from neupol_cli.io.structure_formats import rewritten
from neupol_cli.io.volumetric import plausible
from tests.conftest import DATA

FOREIGN = DATA / "foreign"
FILES = json.loads((FOREIGN / "files.json").read_text())
CUBES = [entry for entry in FILES if entry["electrons"]]


def unpacked(entry: dict[str, Any], folder: Path) -> Path:
    path = folder / entry["file"]
    path.write_bytes(gzip.decompress((FOREIGN / entry["packed"]).read_bytes()))
    return path


def same(atoms: Atoms, entry: dict[str, Any]) -> None:
    """The atoms at their places, in whichever image of the cell."""
    assert "".join(atoms.get_chemical_symbols()) == entry["symbols"]
    move = atoms.positions - np.array(entry["positions"])
    if entry["cell"] is not None:
        assert atoms.pbc.all()
        np.testing.assert_allclose(atoms.cell.array, entry["cell"], rtol=0, atol=2e-4)
        fractions = move @ np.linalg.inv(entry["cell"])
        move = (fractions - fractions.round()) @ np.array(entry["cell"])
    np.testing.assert_allclose(move, 0.0, atol=2e-4)


@pytest.mark.parametrize("entry", FILES, ids=lambda entry: entry["packed"])
def test_structures_are_what_the_program_was_told(entry: dict[str, Any], tmp_path: Path) -> None:
    frames = [atoms for _, atoms in structures.read([unpacked(entry, tmp_path)])]
    assert len(frames) == entry["frames"]
    same(frames[entry["frame"]], entry)


@pytest.mark.parametrize("entry", CUBES, ids=lambda entry: entry["packed"])
def test_densities_hold_what_the_raw_numbers_hold(entry: dict[str, Any]) -> None:
    volume = volumetric.read(FOREIGN / entry["packed"])
    same(volume.atoms, entry)
    centre = volume.grid.points().T @ volume.values.reshape(-1) / volume.values.sum()
    assert volume.electrons == pytest.approx(entry["electrons"], abs=1e-6)
    np.testing.assert_allclose(centre, entry["centre"], rtol=0, atol=1e-6)
    reason = plausible.reason_against(volume)
    assert entry["refused"] in reason if reason else not entry["refused"], reason


def test_ten_programs() -> None:
    assert len({entry["packed"].partition("/")[0] for entry in FILES}) == 10
    assert len({entry["packed"].partition("/")[0] for entry in CUBES}) == 8
    written = {str(path.relative_to(FOREIGN)) for path in FOREIGN.rglob("*.gz")}
    assert written == {entry["packed"] for entry in FILES}


@pytest.mark.parametrize("program", ["QuantumESPRESSO", "ABINIT"])
def test_a_programs_xsf_and_cube_are_one_density(program: str) -> None:
    """Though the one has x first and a plane more, the other z; to five digits of text."""
    xsf, cube = (volumetric.read(FOREIGN / program / f"si.{end}.gz") for end in ("xsf", "cube"))
    assert xsf.grid.same_as(cube.grid)
    np.testing.assert_allclose(xsf.values, cube.values, rtol=0, atol=6e-6 * cube.values.max())


def test_lengths_of_an_abinit_output_are_those_of_acell() -> None:
    """ASE takes ``rprim`` for Angstrom."""
    text = (
        "-outvars: echo values of preprocessed input variables --------\n"
        "            acell      1.0000000000E+01  1.0000000000E+01  2.0000000000E+01 Bohr\n"
        "            natom           2\n"
        "            rprim      0.0000000000E+00  5.0000000000E-01  5.0000000000E-01\n"
        "                       5.0000000000E-01  0.0000000000E+00  5.0000000000E-01\n"
        "                       5.0000000000E-01  5.0000000000E-01  0.0000000000E+00\n"
        "            typat      1  1\n"
    )
    words = rewritten.abinit_output(text).partition("rprim")[2].partition("typat")[0].split()
    half = 5.0 * 0.529177210903
    expected = [0.0, half, half, half, 0.0, half, 2 * half, 2 * half, 0.0]
    assert [float(word) for word in words] == pytest.approx(expected, abs=1e-8)


def test_an_abinit_output_of_several_structures_is_refused(tmp_path: Path) -> None:
    (entry,) = [entry for entry in FILES if entry["file"] == "si.abo"]
    path = unpacked(entry, tmp_path)
    text = path.read_text()
    places = text.index(" cartesian coordinates (angstrom) at end")
    path.write_text(text[:places] + text[places : places + 200] + "\n" + text[places:])
    with pytest.raises(structures.InputError, match="holds 2 structures, of which 1"):
        list(structures.read([path]))


def test_xsf_of_several_structures(tmp_path: Path) -> None:
    path = tmp_path / "a.xsf"
    frames = [f" ATOMS {k}\n O 0.0 0.0 0.{k}\n H 0.0 0.0 1.0\n" for k in (1, 2)]
    path.write_text("ANIMSTEPS 2\n" + "".join(frames))
    found = [atoms for _, atoms in structures.read([path])]
    assert [atoms.positions[0, 2] for atoms in found] == pytest.approx([0.1, 0.2])
    path.write_text("ANIMSTEPS 2\n" + frames[0])
    with pytest.raises(structures.InputError):
        list(structures.read([path]))
