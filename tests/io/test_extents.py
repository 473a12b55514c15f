"""Formats whose readers in ASE stop early: what they hold is counted by rules of our own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write as ase_write

from neupol_cli.errors import InputError
from neupol_cli.io import structures
from neupol_cli.io.structure_formats.frame import AS_WRITTEN, Reading

WATER = molecule("H2O")
CRYSTAL = bulk("NaCl", "rocksalt", a=5.6)


def read(path: Path, text: str, reading: Reading = AS_WRITTEN) -> list[Atoms]:
    path.write_text(text)
    return [atoms for _, atoms in structures.read([path], reading=reading)]


def refused(path: Path, text: str, reason: str, reading: Reading = AS_WRITTEN) -> None:
    with pytest.raises(InputError, match=reason):
        read(path, text, reading)


def written(path: Path, atoms: Atoms, kind: str) -> str:
    ase_write(path, atoms, format=kind)
    return path.read_text()


@pytest.mark.parametrize("atoms", [WATER, CRYSTAL], ids=["molecule", "crystal"])
@pytest.mark.parametrize(("kind", "name"), [("gen", "a.gen"), ("dmol-car", "a.car")])
def test_no_beginning_of_a_file_is_a_smaller_structure(
    kind: str, name: str, atoms: Atoms, tmp_path: Path
) -> None:
    text = written(tmp_path / name, atoms, kind)
    (found,) = read(tmp_path / name, text)
    np.testing.assert_array_equal(found.numbers, atoms.numbers)
    np.testing.assert_allclose(found.get_all_distances(), atoms.get_all_distances(), atol=1e-7)
    rows = text.splitlines(keepends=True)
    for count in range(1, len(rows)):
        refused(tmp_path / name, "".join(rows[:count]), r"a\.(gen|car): ")


def test_a_gen_file_of_two_structures(tmp_path: Path) -> None:
    text = written(tmp_path / "a.gen", WATER, "gen")
    refused(tmp_path / "a.gen", text + text, "holds more than its 3 atoms")


def test_molecules_of_a_car_file(tmp_path: Path) -> None:
    """Each ends in 'end', the structure in one more; ASE reads the first."""
    path = tmp_path / "a.car"
    text = written(path, WATER, "dmol-car")
    atoms = text[text.index("O1") : text.index("end")]
    refused(path, text.replace("end\nend", f"end\n{atoms}end\nend"), "holds 6 atoms, of which 3")
    frame = text[text.index("!DATE") :]
    refused(path, f"{text}title\n{frame}", "holds 2 structures, of which 1")


def test_aims_geometry_has_all_its_lattice_vectors(tmp_path: Path) -> None:
    path = tmp_path / "geometry.in"
    vectors = [f"lattice_vector {row}\n" for row in ("0 2.8 2.8", "2.8 0 2.8", "2.8 2.8 0")]
    places = "atom_frac 0 0 0 Na\natom_frac 0.5 0.5 0.5 Cl\n"
    (atoms,) = read(path, "".join(vectors) + places)
    assert atoms.pbc.all() and atoms.get_distance(0, 1) == pytest.approx(4.8497, abs=1e-4)
    for count in (0, 1, 2):
        reason = f"has {count} of 3 lattice vectors"
        refused(path, "".join(vectors[:count]) + places, reason)
        refused(path, places + "".join(vectors[:count]), reason)
        if count:
            refused(path, "atom 0 0 0 Na\n" + "".join(vectors[:count]), reason)


LAMMPS = """a comment
2 atoms
{types} atom types
0 9 xlo xhi
0 9 ylo yhi
0 9 zlo zhi

{masses}
Atoms # atomic

1 1 0.0 0.0 0.0
2 {last} 0.0 0.0 1.0
"""
NAMELESS = LAMMPS.format(types=2, masses="", last=2)


def lammps(*masses: str) -> str:
    rows = [f"{type_} {mass}" for type_, mass in enumerate(masses, start=1)]
    text = "\n".join(["Masses", "", *rows, ""])
    return LAMMPS.format(types=len(masses), masses=text, last=len(masses))


@pytest.mark.parametrize(
    ("masses", "symbols"),
    [
        (("15.9994", "1.008"), "OH"),
        (("16.0", "1.0"), "OH"),
        (("12", "2.014"), "CH"),
        (("28.0855", "15.999"), "SiO"),
        (("14.0067 # N", "35.45"), "NCl"),
    ],
)
def test_masses_name_the_types_of_lammps(
    masses: tuple[str, ...], symbols: str, tmp_path: Path
) -> None:
    (atoms,) = read(tmp_path / "a.data", lammps(*masses))
    assert str(atoms.symbols) == symbols


@pytest.mark.parametrize("mass", ["15.035", "13.019", "16.043", "40", "1e9", "28.0"])
def test_a_mass_of_no_element_is_refused(mass: str, tmp_path: Path) -> None:
    """United atoms CH3, CH and CH4, for which the nearest element is another one; Ar or Ca."""
    text = lammps("12.011", mass)
    refused(tmp_path / "a.data", text, "of type 2 is not that of one element; .*--species")
    (atoms,) = read(tmp_path / "a.data", text, Reading(species=("C", "ca")))
    assert str(atoms.symbols) == "CCa"


def test_types_of_lammps_are_no_elements(tmp_path: Path) -> None:
    path = tmp_path / "a.data"
    refused(path, NAMELESS, "names types, not elements; name them: --species")
    (atoms,) = read(path, NAMELESS, Reading(species=("O", "H")))
    assert str(atoms.symbols) == "OH"
    refused(path, NAMELESS, "has 2 types, --species names 1", Reading(species=("O",)))
    labels = NAMELESS.replace("Atoms #", "Atom Type Labels\n\n1 C\n2 O\n\nAtoms #")
    assert str(read(path, labels)[0].symbols) == "CO"


def test_lammps_data_that_does_not_add_up(tmp_path: Path) -> None:
    path, reading = tmp_path / "a.data", Reading(species=("O", "H"))
    refused(path, NAMELESS.replace("2 atoms", "1 atoms"), "declares 1 of atoms and has 2", reading)
    refused(
        path, NAMELESS.rsplit("\n", 2)[0] + "\n", "declares 2 of atoms and has 1|a.data", reading
    )
    refused(path, NAMELESS.replace("a comment", "made, units = electron"), "other units", reading)
    assert read(path, NAMELESS.replace("a comment", "written, units = real"), reading)


ELK = """scale
 1.0
avec
 0.0 5.3 5.3
 5.3 0.0 5.3
 5.3 5.3 0.0
atoms
 2 : nspecies
'Na.in' : spfname
 1 : natoms; atpos, bfcmt below
 0.0 0.0 0.0 0.0 0.0 0.0
'Cl.in' : spfname
 1 : natoms; atpos, bfcmt below
 0.5 0.5 0.5 0.0 0.0 0.0
"""


@pytest.mark.parametrize("name", ["GEOMETRY.OUT", "a.xsd"])
def test_numbers_in_names_of_elements_are_not_counted_up_to(name: str, tmp_path: Path) -> None:
    """ASE takes such names for formulas, and for 'O99999999999999999999' it would never end."""
    text = written(tmp_path / name, CRYSTAL, "xsd") if name == "a.xsd" else ELK
    assert [str(atoms.symbols) for atoms in read(tmp_path / name, text)] == ["NaCl"]
    absurd = text.replace("Na.in", "O" + "9" * 20 + ".in").replace('"Na"', f'"O{"9" * 20}"')
    assert absurd != text
    refused(tmp_path / name, absurd, "'O99999999999999999999' is no element")
