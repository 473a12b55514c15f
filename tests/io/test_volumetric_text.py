"""Cubes and CHGCARs of all spellings are read, and damaged ones are never half-read."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st

from neupol_cli.errors import InputError
from neupol_cli.io import volumetric
from neupol_cli.io.units import BOHR
from neupol_cli.io.volumetric import Grid, Volume
from tests.volumes import crystal, parse, small_vasp, text_of


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
        except InputError as trouble:
            assert str(trouble).startswith("file:") and "\n" not in str(trouble)
        else:
            accepted.add(cut)
    assert accepted <= lookalikes


def test_every_prefix_of_a_cube_is_refused() -> None:
    grid = Grid([0.1, 0.2, 0.3], np.diag([0.5, 0.6, 0.7]), (3, 4, 7))
    values = np.random.default_rng(0).random(grid.shape) * 10.0 ** -np.arange(7)
    whole = text_of(Volume(Atoms("CO", [[0, 0, 0], [1.1, 0, 0]]), grid, values), "cube")
    for cut in range(len(whole) - 1):
        with pytest.raises(InputError, match=r"^file:\d+: "):
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
    except InputError as trouble:
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
        (cube_text(counts=(2, 10**20, 3)), "file:5: .*'1000000000.*' is not a finite number"),
        (cube_text(counts=(2, -(1 << 62), 3)), "file:5: .*'-4611686018.*' is not a finite number"),
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
    with pytest.raises(InputError, match=says):
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
    with pytest.raises(InputError, match=says):
        parse(small_vasp(True, True).replace(old, new), "chgcar")


def test_several_structures_and_noncollinear_files_are_refused() -> None:
    whole = small_vasp(False, False)
    block = whole[whole.index(b"  3  2  4") :]
    with pytest.raises(InputError, match="more than two blocks"):
        parse(whole + block * 3, "chgcar")


def test_damaged_gzip_is_bad_input(tmp_path: Path) -> None:
    packed = gzip.compress(text_of(crystal(), "cube"))
    flipped = packed[:300] + b"\x00\x01" + packed[302:]
    for name, content in {"cut": packed[:-40], "flip": flipped}.items():
        (tmp_path / f"{name}.cube.gz").write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}\.cube\.gz:\d+: "):
            volumetric.read(tmp_path / f"{name}.cube.gz")
