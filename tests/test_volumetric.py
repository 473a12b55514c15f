"""Volumetric files: what is written integrates in other programs' readers, and what is damaged is
never half-read."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.vasp import VaspChargeDensity
from ase.io.cube import read_cube
from ase.io.xsf import read_xsf
from hypothesis import given, settings
from hypothesis import strategies as st

from neupol_cli import volumetric
from neupol_cli.errors import BadInput, Usage
from neupol_cli.units import BOHR
from neupol_cli.volumetric import Grid, Volume, by_counts, by_spacing

CELL = np.array([[5.0, 0.3, -0.2], [1.1, 4.2, 0.4], [-0.7, 0.6, 6.1]])
SHAPE = (12, 9, 16)


def crystal(spin: bool = False) -> Volume:
    """A smooth periodic density of exactly 11 electrons in a triclinic cell."""
    atoms = Atoms("NaOH", [[0.1, 0.2, 0.3], [2.0, 2.1, 2.5], [2.9, 2.3, 2.6]], cell=CELL, pbc=True)
    i, j, k = np.meshgrid(*[np.arange(n) / n for n in SHAPE], indexing="ij")
    wave = (
        1.0
        + 0.5 * np.cos(2 * np.pi * i)
        + 0.3 * np.sin(2 * np.pi * (j + k)) * np.cos(4 * np.pi * k)
    )
    grid = by_counts(atoms, SHAPE, 3.0)
    values = 11.0 * wave / abs(np.linalg.det(CELL))
    return Volume(atoms, grid, values, values * 0.25 if spin else None)


def molecule() -> Volume:
    """Two Gaussians of 8 and 2 electrons on a skewed grid that begins somewhere."""
    atoms = Atoms("OH", [[0.2, -0.1, 0.3], [1.1, 0.1, 0.4]])
    step = np.array([[0.20, 0.01, 0.0], [0.0, 0.21, 0.02], [0.03, 0.0, 0.19]])
    shape = (51, 49, 53)
    origin = atoms.positions.mean(axis=0) - 0.5 * np.array(shape) @ step
    grid = Grid(origin, step, shape)
    values = np.zeros(grid.size)
    for position, electrons in zip(atoms.positions, (8.0, 2.0), strict=True):
        squared = ((grid.points() - position) ** 2).sum(axis=1)
        values += electrons * np.exp(-squared / 0.5) / (np.pi * 0.5) ** 1.5
    return Volume(atoms, grid, values.reshape(shape))


def text_of(volume: Volume, kind: str) -> bytes:
    stream = io.BytesIO()
    volumetric.WRITERS[kind](stream, volume, "a title")
    return stream.getvalue()


def parse(text: bytes, kind: str) -> Volume:
    return volumetric.read_stream(io.BytesIO(text), kind, "file", len(text))


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


def small_vasp(spin: bool, augmented: bool) -> bytes:
    """A CHGCAR as VASP 5 writes it, 3 x 2 x 4 points, two atoms."""
    head = "two atoms\n 1.0\n 3.0 0.0 0.0\n 0.5 2.5 0.0\n 0.0 0.1 4.0\n Si O\n 1 1\nDirect\n"
    head += "  0.1 0.2 0.3\n  0.5 0.6 0.7\n\n"
    values = np.linspace(0.1, 2.4, 24)
    rows = [" ".join(f"{x:.11E}" for x in values[i : i + 5]) for i in range(0, 24, 5)]
    block = "  3  2  4\n " + "\n ".join(rows) + "\n"
    aug = "".join(
        f"augmentation occupancies   {ion}   7\n  "
        + " 0.1234567E+00" * 5
        + "\n"
        + " 0.1E-02" * 2
        + "\n"
        for ion in (1, 2)
    )
    text = head + block + (aug if augmented else "")
    if spin:
        text += "  0.1500000E+01  0.250000E+00\n" + block + (aug if augmented else "")
    return text.encode()


@pytest.mark.parametrize("spin", [False, True])
@pytest.mark.parametrize("augmented", [False, True])
def test_vasps_own_files_are_read_with_all_their_parts(spin: bool, augmented: bool) -> None:
    volume = parse(small_vasp(spin, augmented), "chgcar")
    size = 3.0 * 2.5 * 4.0
    assert volume.values[1, 0, 0] == pytest.approx(0.2 / size, rel=0, abs=1e-12)  # x is fastest
    assert volume.values[0, 1, 0] == pytest.approx(0.4 / size, rel=0, abs=1e-12)
    assert volume.electrons == pytest.approx(np.linspace(0.1, 2.4, 24).mean(), rel=0, abs=1e-12)
    assert (volume.spin is not None) == spin


def test_every_prefix_of_a_chgcar_is_refused() -> None:
    whole = small_vasp(spin=True, augmented=True)
    # What VASP writes without spin, or without occupancies, is a whole file that another one
    # begins with: nothing tells these from a truncated one (give or take a newline or blanks).
    no_aug, no_spin = small_vasp(False, False), small_vasp(False, True)
    second = len(whole) - (len(no_spin) - len(no_aug))
    lookalikes = {
        end - missing for end in (len(no_aug), len(no_spin), second) for missing in range(-2, 2)
    }
    accepted = set()
    for cut in range(len(whole) - 1):
        try:
            parse(whole[:cut], "chgcar")
        except BadInput as trouble:
            assert str(trouble).startswith("file:") and "\n" not in str(trouble)
        else:
            accepted.add(cut)
    assert accepted <= lookalikes


def test_every_prefix_of_a_cube_is_refused() -> None:
    grid = Grid([0.1, 0.2, 0.3], np.diag([0.5, 0.6, 0.7]), (3, 4, 7))
    values = np.random.default_rng(0).random(grid.shape) * 10.0 ** -np.arange(7)
    whole = text_of(Volume(Atoms("CO", [[0, 0, 0], [1.1, 0, 0]]), grid, values), "cube")
    for cut in range(len(whole) - 1):
        with pytest.raises(BadInput, match=r"^file:\d+: "):
            parse(whole[:cut], "cube")
    np.testing.assert_array_equal(parse(whole[:-1], "cube").values, parse(whole, "cube").values)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_files_are_refused_or_still_whole(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["cube", "chgcar"]))
    whole = text_of(crystal(), "cube")[:9000] if kind == "cube" else small_vasp(True, True)
    at = data.draw(st.integers(0, len(whole) - 1))
    junks = [b"nan", b"x", b"\x00", b" ", b"\n", b"-", b"1e999", b"\xff", b"_"]
    junk = data.draw(st.sampled_from(junks))
    try:
        volume = parse(whole[:at] + junk + whole[at + 1 :], kind)
    except BadInput as trouble:
        assert str(trouble).startswith("file:")
    else:
        assert np.isfinite(volume.values).all() and volume.values.shape == volume.grid.shape


def cube_text(
    counts: tuple[int, int, int] = (2, 1, 3),
    atoms: str = "    1    0.0    0.0    0.0",
    values: str = "0.1 0.2 0.3\n0.4 0.5 0.6\n",
) -> bytes:
    steps = ["0.9 0.0 0.0", "0.0 0.8 0.0", "0.0 0.0 0.7"]
    rows = "".join(f"{n} {step}\n" for n, step in zip(counts, steps, strict=True))
    return f"a\nb\n{atoms}\n{rows}1 1.0 0.1 0.2 0.3\n{values}".encode()


def test_a_cube_without_an_origin_and_with_foreign_spellings() -> None:
    plain = parse(cube_text(), "cube")
    np.testing.assert_allclose(plain.grid.step, np.diag([0.9, 0.8, 0.7]) * BOHR, rtol=0, atol=1e-15)
    assert plain.values[1, 0, 2] == 0.6 / BOHR**3
    for text in (
        cube_text(atoms="1"),
        cube_text(atoms="1 0 0 0 1"),
        cube_text().replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + cube_text(),
        cube_text(values="1.0D-1 0.2 3.0*^-1\n4d-1 0.5 0.6D0\n"),
    ):
        np.testing.assert_allclose(parse(text, "cube").values, plain.values, rtol=0, atol=1e-15)
    tiny = parse(cube_text(values="0.1-100 0.2 0.3\n0.4 0.5 0.6-123\n"), "cube")
    assert tiny.values[0, 0, 0] == 0.1e-100 / BOHR**3


def test_negative_counts_mean_angstrom_lengths_and_the_same_values() -> None:
    bohr, angstrom = parse(cube_text(), "cube"), parse(cube_text(counts=(-2, -1, -3)), "cube")
    np.testing.assert_allclose(angstrom.grid.step * BOHR, bohr.grid.step, rtol=0, atol=1e-15)
    np.testing.assert_allclose(angstrom.atoms.positions[0], [0.1, 0.2, 0.3], rtol=0, atol=1e-15)
    np.testing.assert_array_equal(angstrom.values, bohr.values)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (cube_text(atoms="-1 0 0 0"), "file:3: a negative atom count announces orbitals"),
        (cube_text(atoms="1 0 0 0 2"), "several data sets"),
        (cube_text(counts=(2, -1, 3)), "same sign"),
        (cube_text(counts=(2, 0, 3)), "none may be zero"),
        (cube_text(counts=(10**4, 10**4, 10**4)), "announced in a file of"),
        (cube_text(values="0.1 0.2 0.3\n0.4 nan 0.6\n"), "file:9: values: 'nan'"),
        (cube_text(values="0.1 0.2 0.3\n0.4 ***** 0.6\n"), r"file:9: values: '\*\*\*\*\*'"),
        (cube_text(values="0.1 0.2 0.3\n0.4 0.5 0.6 0.7\n"), "file:9: more values"),
        (cube_text(values="0.1 0.2 0.3\n0.4 0.5 0.6\n0.7\n"), "file:10: the file should end here"),
        (cube_text(values="0.1 0.2 0.3\n0.4 0.5\n"), "5 of 6 values"),
        (cube_text(values="0.1 0.2 0.3\n0.4 0.55 0.6"), "within the last of the values"),
        (cube_text().replace(b"1 1.0 0.1", b"199 1.0 0.1"), "file:7: 199 is not the atomic number"),
        (cube_text().replace(b"0.0 0.8 0.0", b"1.8 0.0 0.0"), "lie in one plane"),
        (b"", "file:1: the file ends"),
    ],
)
def test_wrong_cubes_say_what_is_wrong_and_where(text: bytes, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        parse(text, "cube")


def test_vasp_headers_of_all_kinds() -> None:
    plain = parse(small_vasp(False, False), "chgcar")
    text = small_vasp(False, False)
    older = text.replace(b"two atoms", b"Si O in a box").replace(b" Si O\n", b"")
    hashed = text.replace(b" Si O\n", b" Si_sv/1a2b O_s/77\n")
    flags = text.replace(b"Direct", b"Selective dynamics\nDirect").replace(b"0.3\n", b"0.3 T T F\n")
    flags = flags.replace(b"0.7\n", b"0.7 F F F\n")
    cartesian = text.replace(b"Direct\n  0.1 0.2 0.3\n  0.5 0.6 0.7", b"Cartesian\n")
    rows = "\n".join(" ".join(f"{x:.15f}" for x in r) for r in plain.atoms.positions)
    cartesian = cartesian.replace(b"Cartesian\n", f"Cartesian\n{rows}".encode())
    volume = 3.0 * 2.5 * 4.0
    scaled = text.replace(b" 1.0\n", f" {-volume * 8}\n".encode())
    for other in (older, hashed, flags, cartesian):
        found = parse(other, "chgcar")
        np.testing.assert_allclose(found.atoms.positions, plain.atoms.positions, rtol=0, atol=1e-12)
        assert (found.atoms.numbers == [14, 8]).all()
        np.testing.assert_array_equal(found.values, plain.values)
    np.testing.assert_allclose(
        parse(scaled, "chgcar").atoms.cell.array, 2 * plain.atoms.cell.array, rtol=0, atol=1e-12
    )


def test_vasp_writes_ions_without_a_blank_and_as_stars() -> None:
    plain = small_vasp(False, True)
    for old, new in ((b"occupancies   2   7", b"occupancies****   7"), (b"es   1   7", b"es1   7")):
        assert old in plain
        found = parse(plain.replace(old, new), "chgcar")
        np.testing.assert_array_equal(found.values, parse(plain, "chgcar").values)


def test_a_cube_keeps_what_is_known_beside_the_values() -> None:
    notes = {"electrons": 10.0, "energy": -12.5, "dipole": np.array([0.1, -0.2, 0.3])}
    volume = molecule()
    with_notes = Volume(volume.atoms, volume.grid, volume.values, notes=notes)
    found = parse(text_of(with_notes, "cube"), "cube").notes
    assert found["electrons"] == 10.0
    assert found["energy"] == pytest.approx(-12.5, rel=0, abs=1e-6)
    np.testing.assert_allclose(found["dipole"], notes["dipole"], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b" Si O\n 1 1\n", b" 1 1\n", "add VASP 5's line of elements"),
        (b" 1 1\n", b" 1 1 1\n", "element names"),
        (b" 1 1\n", b" 1 -1\n", "make no structure"),
        (b"  3  2  4\n", b"  3  2  5\n", "counts are wrong|should be|more values"),
        (b"  3  2  4\n", b"  3  0  4\n", "must be at least 1"),
        (b"Direct", b"Ditect\n", "file:"),
        (b" 0.5 2.5 0.0", b" 1.5 0.0 0.0", "lie in one plane"),
        (b"occupancies   2", b"occupancies   3", "ion 3 where 2 should come"),
    ],
)
def test_wrong_chgcars_say_what_is_wrong(old: bytes, new: bytes, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        parse(small_vasp(True, True).replace(old, new), "chgcar")


def test_several_structures_and_noncollinear_files_are_refused() -> None:
    whole = small_vasp(False, False)
    block = whole[whole.index(b"  3  2  4") :]
    with pytest.raises(BadInput, match="more than two blocks"):
        parse(whole + block * 3, "chgcar")


def test_damaged_gzip_is_bad_input(tmp_path: Path) -> None:
    packed = gzip.compress(text_of(crystal(), "cube"))
    flipped = packed[:300] + b"\x00\x01" + packed[302:]
    for name, content in {"cut": packed[:-40], "flip": flipped}.items():
        (tmp_path / f"{name}.cube.gz").write_bytes(content)
        with pytest.raises(BadInput, match=rf"{name}\.cube\.gz:\d+: "):
            volumetric.read(tmp_path / f"{name}.cube.gz")


def test_names_tell_the_format() -> None:
    names = {"a.cube": "cube", "CHGCAR": "chgcar", "r/AECCAR2.gz": "chgcar", "Si.CHGCAR": "chgcar"}
    names |= {"CHG": "chgcar", "CHGCAR_up": "chgcar", "a.xsf": "xsf", "a.h5": "hdf5"}
    assert {name: volumetric.format_of(name) for name in names} == names
    with pytest.raises(Usage, match=r"must end in \.cube"):
        volumetric.format_of("a.txt")
    with pytest.raises(BadInput, match="no such file"):
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
    with pytest.raises(BadInput, match="one plane"):
        Grid([0, 0, 0], np.ones((3, 3)), (2, 2, 2))
    with pytest.raises(BadInput, match="at least 1"):
        Grid([0, 0, 0], np.eye(3), (2, 0, 2))
    with pytest.raises(Usage, match="--spacing"):
        by_spacing(molecule().atoms, -1.0, 3.0)
    with pytest.raises(Usage, match="--grid"):
        by_counts(molecule().atoms, (1, 2), 3.0)


def test_a_chgcar_needs_a_grid_that_fills_the_cell(tmp_path: Path) -> None:
    volume = crystal()
    half = Grid(np.zeros(3), volume.grid.step * 0.5, volume.grid.shape)
    with pytest.raises(Usage, match="does not fill the cell"):
        volumetric.write(tmp_path / "CHGCAR", Volume(volume.atoms, half, volume.values), "t")


def test_the_examples_reference_is_whole() -> None:
    path = Path(__file__).parents[1] / "examples" / "water_pbe.cube.gz"
    volume = volumetric.read(path)
    assert volume.notes["electrons"] == 8.0 and np.linalg.norm(volume.notes["dipole"]) > 2.0
    assert volume.electrons == pytest.approx(8.0, rel=0, abs=0.05)
