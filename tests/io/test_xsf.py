"""XSF: structures of every kind, and densities on grids whose right answer is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from neupol_cli.datasets import density
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import hdf5, structures, volumetric
from neupol_cli.io.units import BOHR
from neupol_cli.io.volumetric import Grid, Volume, by_counts, guesses
from neupol_cli.io.volumetric.h5 import volume_of
from tests.io.xsf_texts import CRYSTAL, ONCE, SPAN, STATED, again, block
from tests.volumes import CELL, crystal, molecule, parse, text_of
from tests.warm import neupol


def found(text: str) -> Volume:
    return parse(text.encode(), "xsf")


def refused(text: str) -> str:
    with pytest.raises(InputError) as caught:
        found(text)
    return str(caught.value)


def test_a_crystals_planes_are_counted_once() -> None:
    volume = found(STATED + CRYSTAL + block(again(ONCE)))
    np.testing.assert_array_equal(volume.values, ONCE)
    assert volume.values[1, 0, 0] == 2.0 and volume.values[0, 0, 1] == 5.0  # x is the fastest
    np.testing.assert_array_equal(volume.grid.step, np.diag([1.0, 1.5, 2.0]))
    assert volume.electrons == pytest.approx(36.0 * 3.0, rel=0, abs=1e-12)
    assert volume.atoms.pbc.all() and volume.atoms.get_chemical_symbols() == ["He", "He"]
    np.testing.assert_array_equal(volume.atoms.cell.array, np.diag([2.0, 3.0, 4.0]))


def test_points_that_are_not_repeated_span_less_than_the_cell() -> None:
    half = "1.0 0.0 0.0\n0.0 1.5 0.0\n0.0 0.0 2.0\n"
    volume = found(STATED + CRYSTAL + block(ONCE, half))
    np.testing.assert_array_equal(volume.values, ONCE)
    np.testing.assert_array_equal(volume.grid.box, volume.atoms.cell.array)


def test_a_molecules_planes_are_all_its_own() -> None:
    values = np.arange(1.0, 25.0).reshape(2, 3, 4, order="F")
    text = f"{STATED}ATOMS\nH 0 0 0\nH 0 0 0.74\n{block(values, origin='-1 -2 -3')}"
    volume = found(text)
    np.testing.assert_array_equal(volume.values, values)
    np.testing.assert_array_equal(volume.grid.origin, [-1.0, -2.0, -3.0])
    np.testing.assert_allclose(volume.grid.step, np.diag([2, 1.5, 4 / 3]), rtol=0, atol=1e-15)
    assert not volume.atoms.pbc.any() and not volume.atoms.cell.array.any()


def test_spellings_of_other_programs() -> None:
    plain = found(STATED + CRYSTAL + block(again(ONCE)))
    text = STATED + CRYSTAL + block(again(ONCE))
    group = text.replace("CRYSTAL", " DIM-GROUP\n 3  1")
    fortran = text.replace("1.0\n2.0\n1.0\n", "1.0D0\n0.2d+01\n10.0E-1\n")
    comments = text.replace("PRIMCOORD", "\n# atoms\nPRIMCOORD").replace(
        "BEGIN_BL", "#\n\nBEGIN_BL"
    )
    older = text.replace("DATAGRID_3D", "DATAGRID3D").replace("BEGIN_DATAGRID3D_", "DATAGRID_3D_")
    planes = "BEGIN_BLOCK_DATAGRID_2D\na\nDATAGRID_2D_b\n1 1\n0 0 0\n1 0 0\n0 1 0\n5\n"
    planes += "END_DATAGRID_2D\nEND_BLOCK_DATAGRID_2D\n"
    twice = text.replace("BEGIN_BL", "ATOMS\nHe 0.5 0.5 0.5\nHe 1.5 1.5 2.5\nBEGIN_BL", 1)
    forces = text.replace("0.5 0.5 0.5", "0.5 0.5 0.5 0 0 0").replace("2.5\n", "2.5 0 0 1\n")
    sheared = text.replace(SPAN, "2 0 0\n2 3 0\n0 0 4\n", 1)  # another choice of vectors
    for other in (group, fortran, comments, older, text + planes, twice, forces, sheared):
        assert other != text
        volume = found(other)
        np.testing.assert_array_equal(volume.values, plain.values)
        np.testing.assert_array_equal(volume.atoms.positions, plain.atoms.positions)


def test_atoms_are_those_of_the_primitive_cell(tmp_path: Path) -> None:
    """CONVVEC and CONVCOORD repeat it."""
    more = "CONVVEC\n4 0 0\n0 3 0\n0 0 4\nPRIMCOORD\n2 1\nHe 0.5 0.5 0.5\nHe 1.5 1.5 2.5\n"
    more += "CONVCOORD\n4 1\n" + "He 0.5 0.5 0.5\n" * 4
    text = f"CRYSTAL\nPRIMVEC\n{SPAN}{more}"
    assert len(found(STATED + text + block(again(ONCE))).atoms) == 2
    (tmp_path / "a.xsf").write_text(text)
    ((_, atoms),) = structures.read([tmp_path / "a.xsf"])
    np.testing.assert_array_equal(atoms.cell.array, np.diag([2.0, 3.0, 4.0]))


@pytest.mark.parametrize("spin", [False, True])
def test_a_crystal_comes_back(spin: bool, tmp_path: Path) -> None:
    volume = crystal(spin)
    volumetric.write(tmp_path / "a.xsf.gz", volume, "a title")
    back = volumetric.read(tmp_path / "a.xsf.gz")
    largest = volume.values.max()
    np.testing.assert_allclose(back.values, volume.values, rtol=0, atol=1e-7 * largest)
    if spin:
        np.testing.assert_allclose(back.spin, volume.spin, rtol=0, atol=1e-7 * largest)
    assert (back.spin is not None) == spin and guesses.note("a", back) == ""
    assert back.grid.same_as(volume.grid, 1e-10) and back.atoms.pbc.all()
    np.testing.assert_allclose(back.atoms.positions, volume.atoms.positions, rtol=0, atol=1e-11)
    np.testing.assert_allclose(back.atoms.cell.array, CELL, rtol=0, atol=1e-11)


@pytest.mark.parametrize("pbc", ["TTF", "TFF", "FFT", "TFT", "FFF"])
def test_slabs_wires_and_molecules_come_back(pbc: str, tmp_path: Path) -> None:
    """Also those that XCrySDen has no word for, read as a structure or as a density."""
    flags = [flag == "T" for flag in pbc]
    cell = np.where(np.array(flags)[:, None], np.diag([3.0, 4.0, 5.0]), 0.0)
    atoms = Atoms("CO", [[0.5, 0.5, 0.5], [0.5, 0.5, 1.6]], cell=cell, pbc=flags)
    grid = by_counts(atoms, (4, 5, 6), 2.5)
    values = np.random.default_rng(0).random(grid.shape)
    volumetric.write(tmp_path / "a.xsf", Volume(atoms, grid, values), "t")
    back = volumetric.read(tmp_path / "a.xsf")
    ((_, structure),) = structures.read([tmp_path / "a.xsf"])
    np.testing.assert_allclose(back.values, values, rtol=0, atol=1e-7)
    assert back.grid.same_as(grid, 1e-10)
    for one in (back.atoms, structure):
        assert one.pbc.tolist() == flags
        np.testing.assert_allclose(one.positions, atoms.positions, rtol=0, atol=1e-11)
        np.testing.assert_allclose(one.cell.array[flags], cell[flags], rtol=0, atol=1e-11)


def test_a_part_of_a_cell_comes_back_and_more_than_it_is_not_written(tmp_path: Path) -> None:
    volume = crystal()
    part = replace(volume, grid=Grid([0.1, 0, 0], volume.grid.step * 0.5, volume.grid.shape))
    volumetric.write(tmp_path / "a.xsf", part, "t")
    back = volumetric.read(tmp_path / "a.xsf")
    assert back.grid.same_as(part.grid, 1e-10) and back.values.shape == volume.values.shape
    np.testing.assert_allclose(back.atoms.cell.array, CELL, rtol=0, atol=1e-11)
    for factor, says in ((2.0, "the grid spans 8 cells"), (1.1, "the grid is neither the cell")):
        more = replace(volume, grid=Grid([0, 0, 0], volume.grid.step * factor, volume.grid.shape))
        with pytest.raises(UsageError, match=rf"a\.xsf: {says}.*; write \.npz"):
            volumetric.write(tmp_path / "a.xsf", more, "t")
    flat = by_counts(molecule().atoms, (1, 2, 2), 2.0)
    with pytest.raises(UsageError, match="needs two points"):
        volumetric.write(
            tmp_path / "b.xsf", Volume(molecule().atoms, flat, np.ones((1, 2, 2))), "t"
        )


def silent(volume: Volume, factor: float = 1.0, name: str = "electron_density") -> str:
    """The file of a density times a factor, without the comments that say what it is in."""
    text = text_of(replace(volume, values=volume.values * factor), "xsf").decode()
    kept = [row for row in text.splitlines() if not row.startswith("#")]
    return "\n".join(kept).replace("electron_density", name) + "\n"


@pytest.mark.parametrize("make", [crystal, molecule])
def test_the_unit_is_told_from_the_electrons(make) -> None:
    volume = make()
    for factor, unit in ((1.0, "e/Angstrom^3"), (BOHR**3, "e/bohr^3")):
        back = found(silent(volume, factor))
        assert back.electrons == pytest.approx(volume.electrons, rel=0, abs=2e-6)
        assert f"values taken for {unit} (by the electrons" in guesses.note("a", back)


def gold(electrons: float) -> Volume:
    """Of 11 electrons in e/Angstrom^3, in e/bohr^3 74: an atom of 79 may have both."""
    atoms = Atoms("Au", cell=np.eye(3) * 4.0, pbc=True)
    return Volume(atoms, by_counts(atoms, (4, 4, 4), 0.0), np.full((4, 4, 4), electrons / 64.0))


def test_a_unit_that_nothing_tells_is_refused() -> None:
    text = silent(gold(11.0))
    reason = refused(text)
    assert "nothing tells the unit of its values (11 in e/Angstrom^3, 74.23 in e/bohr^3" in reason
    for unit, electrons in (("e/Angstrom^3", 11.0), ("e/bohr^3", 11.0 / BOHR**3)):
        back = found(f"# values in {unit}\n{text}")
        assert back.electrons == pytest.approx(electrons, rel=0, abs=1e-5)
        assert guesses.note("a", back) == ""
    assert "nothing tells the unit" in refused(silent(gold(1e4)))
    part = Grid([0, 0, 0], np.eye(3) * 0.5, (4, 4, 4))  # of which the electrons say nothing
    assert "nothing tells the unit" in refused(silent(replace(gold(1.0), grid=part)))


def test_programs_that_write_e_per_bohr3() -> None:
    back = found(silent(gold(11.0), BOHR**3 * 5, "3D_PWSCF"))
    assert back.electrons == pytest.approx(55.0, rel=0, abs=1e-5)
    assert "as Quantum ESPRESSO writes them" in guesses.note("a", back)
    # 5 or 0.74 of 79 electrons in the program's unit: only the other one is possible.
    assert "nothing tells the unit" in refused(silent(gold(11.0 * 2), 1.0, "3D_PWSCF"))


def test_a_crystal_that_siesta_calls_a_molecule_is_refused() -> None:
    """Its rho2xsf knows ATOMS only; they are on the faces of its box."""
    text = silent(crystal(), BOHR**3, "DATA_from:siesta.RHO")
    rows = text.partition("PRIMCOORD\n3 1\n")[2]
    assert "nothing tells the unit" in refused(f"ATOMS\n{rows}")


def test_values_in_other_units_are_no_density() -> None:
    text = text_of(replace(crystal(), unit="eV"), "xsf").decode()
    assert refused(text) == "file: its values are in eV: it holds no density"
    octopus = CRYSTAL + block(again(ONCE)).replace("by hand", "units: coords = A, function = {}")
    assert found(octopus.format("A^-3")).electrons == pytest.approx(108.0, rel=0, abs=1e-12)
    assert "are in eV: it holds no density" in refused(octopus.format("eV"))
    assert "not in Angstrom" in refused(octopus.format("b^-3").replace("= A", "= b"))


TEXT = STATED + CRYSTAL + block(again(ONCE))
GRID = block(again(ONCE)).partition("by hand\n")[2].partition("END_BLOCK")[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (STATED + CRYSTAL + block(ONCE), "file:18: the grid's vector 1 is a whole period"),
        (TEXT.replace("3 3 3", "3 3 4"), "values"),
        (TEXT.replace("3 3 3", "3 3 2"), "file:37: expected END_DATAGRID_3D, found '1.0'"),
        (TEXT.replace("3 3 3", "1 3 3"), "two at least"),
        (TEXT.replace("3 3 3", "99999 99999 99999"), "announced in a file of"),
        (TEXT.replace("\n5.0", "\nnan", 1), "'nan' is not a finite number"),
        (TEXT.replace("\n5.0", "\n# five\n5.0", 1), "values: '#'"),
        (STATED + CRYSTAL + block(again(ONCE), SPAN.replace("2.0", "4.0")), "spans 2 cells"),
        # ASE's own spanning vectors: (n + 1) / n of the cell.
        (STATED + CRYSTAL + block(np.ones((4, 4, 4)), "2.5 0 0\n0 3.75 0\n0 0 5\n"),
         "neither the cell"),
        (STATED + CRYSTAL.replace("CRYSTAL", "SLAB") + block(ONCE, "1 0 0\n0 1 0\n0 0 4\n"),
         "does not span the periods"),
        (TEXT.replace("END_BLOCK", GRID + "END_BLOCK"), "2 data grids (x, x)"),
        (TEXT + block(again(ONCE)), "the file should end here"),
        (TEXT.replace("0.0 0.0 4.0\n1.0", "0.0 3.0 0.0\n1.0"), "lie in one plane"),
        ("ANIMSTEPS 2\n" + TEXT, "ANIMSTEPS (1 without it) says 2"),
        ("ANIMSTEPS 2\n" + TEXT.replace("BEGIN_BL", CRYSTAL[8:] + "BEGIN_BL", 1),
         "2 structures (ANIMSTEPS), not one of a density"),
        (STATED + CRYSTAL, "holds no density"),
        (TEXT.replace("DATAGRID_3D", "DATAGRID_2D"), "holds no density"),
        (TEXT.replace("DATAGRID_3D", "BANDGRID_3D"), "a block of BANDGRID_3D holds no density"),
        (TEXT.replace("END_DATAGRID_3D\n", ""), "expected END_DATAGRID_3D, found 'END_BLOCK"),
        (TEXT.replace("PRIMCOORD", "CONVCOORD"), "holds 0 structures"),
        (TEXT.replace("2 1\n", "3 1\n", 1), "file:8: declares 3 atoms and has 2"),
        (TEXT.replace("He ", "Xx "), "file:9: 'Xx' is neither a keyword nor an element"),
        (TEXT.replace("0.5 0.5 0.5", "0.5 0.5"), "file:10: 3 numbers where 2 are needed"),
        (TEXT.replace("CRYSTAL\nPRIMVEC", "CRYSTAL\nPRIMVEK"), "file:3: expected PRIMVEC or"),
        (TEXT.replace("CRYSTAL\n", ""), "file:2: nothing says whether"),
        (TEXT.replace(SPAN, SPAN[:24], 1), "file:3: 2 vectors where 3 are needed"),
        (TEXT.replace("BEGIN_BL", "ATOMS\nHe 0.5 0.5 0.7\nBEGIN_BL", 1), "not those of PRIMCOORD"),
    ],
)  # fmt: skip
def test_what_does_not_add_up_is_refused(text: str, says: str) -> None:
    assert says in refused(text)


def test_no_prefix_of_a_density_is_half_read() -> None:
    whole = text_of(replace(crystal(), values=crystal().values), "xsf")
    end = whole.index(b"END_DATAGRID_3D")
    for cut in [*range(0, 700, 7), *range(end - 60, len(whole) - 1)]:
        with pytest.raises(InputError):
            parse(whole[:cut], "xsf")
    assert parse(whole[:-1], "xsf").values.shape == crystal().values.shape


def test_xsf_densities_become_a_dataset(tmp_path: Path) -> None:
    """A folder's, with a note of what was taken; a structure alone is said to hold none."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.xsf").write_text(silent(crystal(), BOHR**3))
    volumetric.write(tmp_path / "set" / "b.xsf.gz", molecule(), "t")
    (tmp_path / "set" / "c.xsf").write_text(CRYSTAL)
    done = neupol("data", "density", "set", "-o", "s.h5", "--accept", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "c.xsf: no data grid (BEGIN_BLOCK_DATAGRID_3D)" in done.stderr
    assert "1 files (a.xsf ...): values taken for e/bohr^3 (by the electrons" in done.stderr
    dataset = hdf5.read(tmp_path / "s.h5")
    for index, volume in enumerate((crystal(), molecule())):
        stored = volume_of(dataset, index)
        np.testing.assert_allclose(stored.values, volume.values, rtol=0, atol=1e-5)
        assert stored.atoms.pbc.all() == volume.atoms.pbc.all()


def test_an_xsf_is_compared_with_another_file(tmp_path: Path) -> None:
    volumetric.write(tmp_path / "a.cube", crystal(), "t")
    (tmp_path / "b.xsf").write_text(silent(crystal(), BOHR**3))
    for pair in (("a.cube", "b.xsf"), ("b.xsf", "a.cube")):
        done = neupol("density-compare", pair[0], "--reference", pair[1], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "eps_mae    0.0000 %" in done.stdout
        assert done.stderr.count("b.xsf: values taken for e/bohr^3") == 1


def test_a_crystals_xsf_can_be_a_molecules(tmp_path: Path) -> None:
    atoms = Atoms("He", [[6.0] * 3], cell=np.eye(3) * 12.0, pbc=True)
    grid = by_counts(atoms, (8, 8, 8), 0.0)
    volumetric.write(tmp_path / "a.xsf", Volume(atoms, grid, np.ones((8, 8, 8)) / 864), "t")
    alone = volumetric.read(tmp_path / "a.xsf", pbc=False)
    assert not alone.atoms.pbc.any() and alone.grid.same_as(grid, 1e-10)
    choices = density.Choices(pbc=False)
    assert density.collect([tmp_path / "a.xsf"], tmp_path / "s.h5", choices=choices).read == 1
