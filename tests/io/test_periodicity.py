"""Cubes do not say whether they are periodic; grids may not hold a density, nor values be one."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

from neupol_cli.errors import InputError
from neupol_cli.io import structures, volumetric
from neupol_cli.io.structure_formats.frame import Reading
from neupol_cli.io.volumetric import (
    Grid,
    Volume,
    by_counts,
    by_spacing,
    coverage,
    guesses,
    plausible,
)
from tests.volumes import crystal, molecule, parse, text_of

PWSCF = b"Cubefile created from PWScf calculation\n Contains the selected quantity on a FFT grid\n"
GAUSSIAN = b"water density=scf\nElectron density from Total SCF Density\n"
UNKNOWN = b"a title\nanother one\n"


def titled(volume: Volume, titles: bytes) -> bytes:
    return titles + text_of(volume, "cube").split(b"\n", 2)[2]


@pytest.mark.parametrize(
    ("make", "titles", "pbc", "reason"),
    [
        (molecule, PWSCF, True, "by its title, 'PWScf'"),
        (molecule, UNKNOWN, False, "its faces do not say otherwise"),
        (molecule, GAUSSIAN, False, "by its title, 'Total SCF Density'"),
        (crystal, UNKNOWN, True, "atoms are on its faces"),
    ],
)
def test_it_is_told_from_titles_and_faces(make, titles, pbc, reason) -> None:
    volume = parse(titled(make(), titles), "cube")
    assert volume.atoms.pbc.tolist() == [pbc] * 3
    assert reason in guesses.note("a.cube", volume)
    cell = volume.grid.box if pbc else np.zeros((3, 3))
    np.testing.assert_array_equal(volume.atoms.cell.array, cell)


def test_density_that_goes_on_at_the_opposite_face() -> None:
    volume = crystal()
    inside = volume.atoms.copy()
    inside.positions[:] = volume.grid.box.sum(axis=0) / 2 + [[-0.4, 0, 0], [0, 0.4, 0], [0, 0, 0.4]]
    found = parse(titled(replace(volume, atoms=inside), UNKNOWN), "cube")
    assert found.atoms.pbc.all() and "goes on" in found.notes[guesses.PERIODICITY]


def test_ours_say_it_and_the_user_knows_better(tmp_path) -> None:
    assert guesses.note("a", parse(text_of(molecule(), "cube"), "cube")) == ""
    assert parse(text_of(crystal(), "cube"), "cube").atoms.pbc.all()
    (tmp_path / "a.cube").write_bytes(titled(molecule(), PWSCF))
    assert not volumetric.read(tmp_path / "a.cube", pbc=False).atoms.pbc.any()
    (tmp_path / "a.cube").write_bytes(titled(molecule(), UNKNOWN))
    told = volumetric.read(tmp_path / "a.cube", pbc=True)
    assert told.atoms.pbc.all() and guesses.note("a", told) == ""


def test_predict_takes_a_cube_as_density_does(tmp_path, capsys) -> None:
    for titles, pbc in ((PWSCF, True), (GAUSSIAN, False)):
        (tmp_path / "a.cube").write_bytes(titled(molecule(), titles))
        ((_, atoms),) = structures.read([tmp_path / "a.cube"])
        assert atoms.pbc.all() == pbc
        assert "taken for" in capsys.readouterr().err
    (tmp_path / "a.cube").write_bytes(titled(molecule(), PWSCF))
    ((_, atoms),) = structures.read([tmp_path / "a.cube"], reading=Reading(pbc=False))
    assert not atoms.pbc.any()


def test_a_whole_molecule_in_a_wide_box_may_leave_it() -> None:
    text = '2\nLattice="{0} 0 0 0 {0} 0 0 0 {0}"\nO {1} 5 5\nH 6 5 5\n'

    def read(box: float, x: float) -> Atoms:
        stream = io.StringIO(text.format(box, x))
        ((_, atoms),) = structures.read(["-"], stdin=stream, reading=Reading(pbc=False))
        return atoms

    atoms = read(12.0, 5.0)
    assert not atoms.pbc.any() and not atoms.cell.array.any()
    with pytest.raises(InputError, match=r"4\.00 Angstrom from another one's image"):
        read(5.0, 5.0)
    with pytest.raises(InputError, match=r"1\.00 Angstrom from another one's image"):
        read(12.0, 17.0)  # cut by the box's face


GRAPHENE = Atoms(
    "C2", [[0, 0, 0], [0, 1.4243, 0]], pbc=[True, True, False],
    cell=[[2.467, 0, 0], [-1.2335, 2.1365, 0], [0, 0, 10]],
)  # fmt: skip


def test_a_slab_on_the_cells_face_has_room_on_both_sides() -> None:
    grid = by_spacing(GRAPHENE, 0.2, 3.6)
    assert coverage.fills_cell(grid, GRAPHENE)
    np.testing.assert_allclose(grid.origin, [0, 0, -3.6], rtol=0, atol=1e-12)
    np.testing.assert_allclose(grid.box[2], [0, 0, 13.6], rtol=0, atol=1e-12)
    middle = GRAPHENE.copy()
    middle.positions[:, 2] = 5.0
    np.testing.assert_allclose(by_spacing(middle, 0.2, 3.6).box, GRAPHENE.cell.array, atol=1e-12)
    skewed = GRAPHENE.copy()
    skewed.cell[2] = [5.0, 0.0, 10.0]
    grid = by_counts(skewed, (4, 4, 8), 3.6)
    np.testing.assert_allclose(grid.origin[2], -3.6, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("origin", "side", "reason"),
    [
        ([-3, -3, -3], 6.0, None),
        ([-1, -3, -3], 6.0, "atom 1 is 1.00 Angstrom from its face"),
        ([5, 5, 5], 6.0, "atom 1 is 5.00 Angstrom outside of it"),
    ],
)
def test_a_grid_that_cuts_the_density_off_is_named(origin, side, reason) -> None:
    grid = Grid(np.array(origin), np.eye(3) * side / 12, (12, 12, 12))
    assert coverage.shortfall(grid, Atoms("H")) == reason


def test_part_of_a_cell_and_of_a_slab() -> None:
    volume = crystal()
    half = Grid(np.zeros(3), volume.grid.step, (6, 9, 16))
    assert coverage.shortfall(half, volume.atoms) == "it fills 50 % of the cell"
    around = by_spacing(GRAPHENE, 0.2, 3.6)
    narrow = Grid(around.origin, around.step * [[0.5], [1], [1]], around.shape)
    assert "is not the cell" in str(coverage.shortfall(narrow, GRAPHENE))


def water(scale: float = 1.0, title: str = "density") -> Volume:
    volume = molecule()
    atoms = Atoms("OH2", volume.atoms.positions[[0, 1, 1]])
    return Volume(atoms, volume.grid, volume.values * 0.8 * scale, notes={"title": title})


@pytest.mark.parametrize(
    ("volume", "reason"),
    [
        (water(), None),
        (water(1.25), None),  # all electrons
        (water(title="GTH pseudopotential, PBE"), None),
        (water(title="homo.xyz electron density by neupol"), None),
        (water(title="neupol 0.1.0: density esp.xyz -o homo.cube"), None),
        (water(title="homo.xyz electron density by neupol 0.1.0: density esp.xyz -o"), None),
        (water(title="HOMO of neupol"), "its title says 'HOMO'"),
        (water(title="Psi4 Gaussian Cube File. Property: Dt"), None),
        (water(title="Mo2C and MoS2, PBE"), None),
        (water(title="Psi4 Gaussian Cube File. Property: Psi_a_5_1-A"), "its title says 'Psi_'"),
        (water(title="Psi4 Gaussian Cube File. Property: Ds"), "its title says 'Property: Ds'"),
        (water(title="MO 5 of water"), "its title says 'MO 5'"),
        (water(title="HARTREE POTENTIAL"), "its title says 'POTENTIAL'"),
        (water(title="ELF of water"), "its title says 'ELF'"),
        (water(title="spin density"), "its title says 'spin density'"),
        (water(title="MO 5 orbital"), "its title says 'MO 5'"),
        (water(0.185), "its sum is 1.480 electrons where the atoms have 8 (valence) to 10 (all)"),
        (water(6.748), "its sum is 53.984 electrons"),
        (replace(water(), values=water().values - 0.01), "% of it is negative"),
        (replace(water(), values=water().values - 1e-6), None),  # ringing
    ],
)
def test_what_is_no_density(volume: Volume, reason: str | None) -> None:
    found = plausible.reason_against(volume)
    assert found is None if reason is None else reason in str(found)


def test_fewest_valence_electrons() -> None:
    expected = {"H": 1, "He": 2, "C": 4, "Ne": 8, "Na": 1, "Si": 4, "Ti": 4, "Zn": 12, "Ga": 3}
    expected |= {"Zr": 4, "In": 3, "Pb": 4, "Hf": 4, "Au": 11}
    found = {symbol: plausible.fewest_valence(Atoms(symbol).numbers[0]) for symbol in expected}
    assert found == expected
