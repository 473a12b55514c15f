"""Volumetric files: what is written integrates in other programs' readers; grids and names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.vasp import VaspChargeDensity
from ase.io.cube import read_cube
from ase.io.xsf import read_xsf

from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import volumetric
from neupol_cli.io.units import BOHR
from neupol_cli.io.volumetric import Grid, Volume, by_counts, by_spacing
from tests.volumes import CELL, crystal, molecule, parse, small_vasp, text_of


def test_a_density_comes_back_from_hdf5(tmp_path: Path) -> None:
    volume = crystal(spin=True)
    volumetric.write(tmp_path / "rho.h5", volume, "a title")
    back = volumetric.read(tmp_path / "rho.h5")
    np.testing.assert_allclose(back.values, volume.values, rtol=0, atol=1e-7)
    np.testing.assert_allclose(back.spin, volume.spin, rtol=0, atol=1e-7)
    assert back.grid.same_as(volume.grid, 1e-12) and back.atoms.pbc.all()
    assert back.electrons == pytest.approx(11.0, rel=0, abs=1e-6)


@pytest.mark.parametrize("make", [crystal, molecule])
@pytest.mark.parametrize("name", ["a.cube", "CHGCAR", "b.cube.gz", "CHGCAR.gz"])
def test_what_is_written_comes_back(make, name: str, tmp_path: Path) -> None:
    volume = make()
    volumetric.write(tmp_path / name, volume, "a title")
    back = volumetric.read(tmp_path / name)
    shift = 0 if "cube" in name else volume.grid.origin
    np.testing.assert_allclose(back.values, volume.values, rtol=0, atol=2e-7 * volume.values.max())
    np.testing.assert_allclose(back.grid.step, volume.grid.step, rtol=0, atol=1e-10)
    np.testing.assert_allclose(
        back.atoms.positions, volume.atoms.positions - shift, rtol=0, atol=1e-9
    )
    assert back.electrons == pytest.approx(volume.electrons, rel=0, abs=1e-7)
    assert (back.atoms.numbers == volume.atoms.numbers).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize(("make", "electrons"), [(crystal, 11.0), (molecule, 10.0)])
def test_a_cube_integrates_in_ases_reader(make, electrons: float, tmp_path: Path) -> None:
    volumetric.write(tmp_path / "a.cube", make(), "a title")
    with (tmp_path / "a.cube").open() as stream:
        found = read_cube(stream)  # geometry in Angstrom, data as they stand: per bohr^3
    element = abs(np.linalg.det(found["spacing"])) / BOHR**3
    assert found["data"].sum() * element == pytest.approx(electrons, rel=0, abs=1e-6)


def test_a_cube_integrates_in_pyscfs_reader(tmp_path: Path) -> None:
    tools = pytest.importorskip("pyscf.tools.cubegen")
    from pyscf import gto

    volume = molecule()
    volume.atoms.numbers[:] = [8, 8]  # pyscf insists on paired electrons
    volumetric.write(tmp_path / "a.cube", volume, "a title")
    grid = tools.Cube(gto.M(atom="H 0 0 0; H 0 0 0.7", verbose=0), nx=2, ny=2, nz=2)
    values = grid.read(str(tmp_path / "a.cube"))
    # pyscf's box spans the first to the last point only when it made the grid itself.
    step = grid.box / np.array(values.shape)[:, None]
    assert values.sum() * abs(np.linalg.det(step)) == pytest.approx(10.0, rel=0, abs=1e-6)


@pytest.mark.parametrize(("make", "electrons"), [(crystal, 11.0), (molecule, 10.0)])
def test_a_chgcar_integrates_in_ases_reader(make, electrons: float, tmp_path: Path) -> None:
    volumetric.write(tmp_path / "CHGCAR", make(), "a title")
    found = VaspChargeDensity(str(tmp_path / "CHGCAR"))
    density, atoms = found.chg[0], found.atoms[0]
    assert density.shape == make().grid.shape
    element = atoms.get_volume() / density.size
    assert density.sum() * element == pytest.approx(electrons, rel=0, abs=1e-7)
    np.testing.assert_allclose(density, make().values, rtol=0, atol=1e-8)


def test_spin_is_the_second_block_for_ase_too(tmp_path: Path) -> None:
    volume = crystal(spin=True)
    volumetric.write(tmp_path / "CHGCAR", volume, "a title")
    found = VaspChargeDensity(str(tmp_path / "CHGCAR"))
    np.testing.assert_allclose(found.chgdiff[0], volume.spin, rtol=0, atol=1e-8)
    np.testing.assert_allclose(
        volumetric.read(tmp_path / "CHGCAR").spin, volume.spin, rtol=0, atol=1e-8
    )


@pytest.mark.parametrize("make", [crystal, molecule])
def test_an_xsf_integrates_in_ases_reader(make, tmp_path: Path) -> None:
    volume = make()
    volumetric.write(tmp_path / "a.xsf", volume, "a title")
    with (tmp_path / "a.xsf").open() as stream:
        data, origin, span, _ = read_xsf(stream, read_data=True)
    periodic = int(volume.atoms.pbc.all())
    assert data.shape == tuple(n + periodic for n in volume.grid.shape)
    inner = tuple(slice(0, n) for n in volume.grid.shape)  # without the repeated end points
    step = span / (np.array(data.shape) - 1)[:, None]
    assert data[inner].sum() * abs(np.linalg.det(step)) == pytest.approx(
        volume.electrons, rel=0, abs=1e-6
    )
    np.testing.assert_allclose(data[inner], volume.values, rtol=0, atol=2e-7 * volume.values.max())
    np.testing.assert_allclose(origin, volume.grid.origin, rtol=0, atol=1e-11)
    if periodic:
        assert (data[-1] == data[0]).all() and (data[:, :, -1] == data[:, :, 0]).all()


@pytest.mark.parametrize("spin", [False, True])
@pytest.mark.parametrize("augmented", [False, True])
def test_vasps_own_files_are_read_with_all_their_parts(spin: bool, augmented: bool) -> None:
    volume = parse(small_vasp(spin, augmented), "chgcar")
    size = 3.0 * 2.5 * 4.0
    assert volume.values[1, 0, 0] == pytest.approx(0.2 / size, rel=0, abs=1e-12)  # x is fastest
    assert volume.values[0, 1, 0] == pytest.approx(0.4 / size, rel=0, abs=1e-12)
    assert volume.electrons == pytest.approx(np.linspace(0.1, 2.4, 24).mean(), rel=0, abs=1e-12)
    assert (volume.spin is not None) == spin


def test_a_cube_keeps_what_is_known_beside_the_values() -> None:
    notes = {"electrons": 10.0, "energy": -12.5, "dipole": np.array([0.1, -0.2, 0.3])}
    volume = molecule()
    with_notes = Volume(volume.atoms, volume.grid, volume.values, notes=notes)
    found = parse(text_of(with_notes, "cube"), "cube").notes
    assert found["electrons"] == 10.0
    assert found["energy"] == pytest.approx(-12.5, rel=0, abs=1e-6)
    np.testing.assert_allclose(found["dipole"], notes["dipole"], rtol=0, atol=1e-9)


def test_a_chgcar_keeps_the_order_of_its_atoms(tmp_path: Path) -> None:
    """Also where an element comes twice, and through HDF5 and back."""
    volume = crystal()
    volume.atoms.symbols[:] = ["O", "C", "O"]
    volumetric.write(tmp_path / "CHGCAR", volume, "t")
    assert (tmp_path / "CHGCAR").read_text().splitlines()[5].split() == ["O", "C", "O"]
    volumetric.write(tmp_path / "a.h5", volumetric.read(tmp_path / "CHGCAR"), "t")
    volumetric.write(tmp_path / "b.CHGCAR", volumetric.read(tmp_path / "a.h5"), "t")
    for name in ("CHGCAR", "b.CHGCAR"):
        back = volumetric.read(tmp_path / name).atoms
        assert back.get_chemical_symbols() == ["O", "C", "O"]
        np.testing.assert_allclose(back.positions, volume.atoms.positions, rtol=0, atol=1e-9)


def test_zeros_may_fill_a_chgcars_last_line() -> None:
    text = small_vasp(spin=True, augmented=False)
    lines = text.split(b"\n")
    ends = [k for k, line in enumerate(lines) if len(line.split()) == 4 and b"E" in line]
    for end in ends:
        lines[end] += b" 0.00000000000E+00"
    padded = parse(b"\n".join(lines), "chgcar")
    np.testing.assert_array_equal(padded.values, parse(text, "chgcar").values)
    lines[ends[0]] += b" 0.1"
    with pytest.raises(InputError, match="more values than the header announces"):
        parse(b"\n".join(lines), "chgcar")


def test_names_tell_the_format() -> None:
    names = {"a.cube": "cube", "CHGCAR": "chgcar", "r/AECCAR2.gz": "chgcar", "Si.CHGCAR": "chgcar"}
    names |= {"CHG": "chgcar", "CHGCAR_up": "chgcar", "a.xsf": "xsf", "a.h5": "hdf5"}
    names |= {"a.npz": "npz", "CHGCAR.vasp": "chgcar"}
    assert {name: volumetric.format_of(name).name.lower() for name in names} == names
    for name in ("a.txt", "CHG.xyz", "my-chg.cif"):
        with pytest.raises(UsageError, match=r"must end in \.cube"):
            volumetric.format_of(name)
    with pytest.raises(InputError, match="no such file"):
        volumetric.read("nowhere.cube")


def test_grids_from_spacing_counts_cells_and_margins() -> None:
    box = by_spacing(Atoms("H2", [[0, 0, 0], [0, 0, 1.0]]), 0.25, 2.0)
    assert box.shape == (16, 16, 20)
    np.testing.assert_allclose(box.origin, [-2, -2, -2], rtol=0, atol=1e-12)
    np.testing.assert_allclose(box.spacing, 0.25, rtol=0, atol=1e-12)
    cell = by_spacing(crystal().atoms, 0.5, 2.0)
    np.testing.assert_allclose(cell.box, CELL, rtol=0, atol=1e-12)
    assert cell.spacing.max() <= 0.5
    slab = Atoms("C", [[0.5, 0.5, 7.0]], cell=[3.0, 4.0, 0.0], pbc=[True, True, False])
    grid = by_counts(slab, (3, 4, 5), 2.0)
    np.testing.assert_allclose(grid.box, np.diag([3.0, 4.0, 4.0]), rtol=0, atol=1e-12)
    np.testing.assert_allclose(grid.origin, [0, 0, 5.0], rtol=0, atol=1e-12)
    points = cell.points(17, 60)
    i, j, k = np.unravel_index(40, cell.shape)
    np.testing.assert_allclose(points[40 - 17], np.array([i, j, k]) @ cell.step, rtol=0, atol=1e-12)
    assert cell.same_as(Grid(cell.origin + 1e-6, cell.step, cell.shape))
    assert not cell.same_as(Grid(cell.origin + 1e-3, cell.step, cell.shape))


def test_a_grid_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="one plane"):
        Grid([0, 0, 0], np.ones((3, 3)), (2, 2, 2))
    with pytest.raises(InputError, match="at least 1"):
        Grid([0, 0, 0], np.eye(3), (2, 0, 2))
    with pytest.raises(UsageError, match="--spacing"):
        by_spacing(molecule().atoms, -1.0, 3.0)
    with pytest.raises(UsageError, match="--grid"):
        by_counts(molecule().atoms, (1, 2), 3.0)


@pytest.mark.parametrize("name", ["CHGCAR", "a.cube"])
def test_where_the_box_is_the_cell_the_grid_has_to_fill_it(name: str, tmp_path: Path) -> None:
    volume = crystal()
    half = Grid(np.zeros(3), volume.grid.step * 0.5, volume.grid.shape)
    with pytest.raises(UsageError, match="does not fill the cell"):
        volumetric.write(tmp_path / name, Volume(volume.atoms, half, volume.values), "t")


def test_the_examples_reference_is_whole() -> None:
    path = Path(__file__).parents[2] / "examples" / "water_pbe.cube.gz"
    volume = volumetric.read(path)
    assert volume.notes["electrons"] == 8.0 and np.linalg.norm(volume.notes["dipole"]) > 2.0
    assert volume.electrons == pytest.approx(8.0, rel=0, abs=0.05)
