"""What enters as a structure, and what is refused, with its line."""

from __future__ import annotations

import io
import itertools
import os
import threading
import time
from pathlib import Path
from typing import Any

import ase
import ase.constraints
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import write as ase_write
from hypothesis import given, settings
from hypothesis import strategies as st

from neupol_cli.errors import InputError
from neupol_cli.io import soundness, structures
from neupol_cli.io.hdf5 import Target

WATER = "3\nwater\nO 0.0 0.0 0.119\nH 0.0 0.763 -0.477\nH 0.0 -0.763 -0.477\n"


def from_text(text: str) -> list[ase.Atoms]:
    return [atoms for _, atoms in structures.read(["-"], stdin=io.StringIO(text))]


def refused(text: str) -> str:
    with pytest.raises(InputError) as caught:
        from_text(text)
    assert caught.value.code == 65
    return str(caught.value)


def test_plain_xyz() -> None:
    (atoms,) = from_text(WATER)
    assert atoms.get_chemical_formula() == "H2O"
    np.testing.assert_array_equal(atoms.positions[1], [0.0, 0.763, -0.477])
    assert atoms.info == {"comment": "water"}
    assert not atoms.pbc.any()


@pytest.mark.parametrize(
    "text",
    [
        WATER.replace("\n", "\r\n"),
        "\ufeff" + WATER,
        WATER.rstrip("\n"),
        WATER + "\n  \n\n",
        "\n" + WATER,
        WATER.replace("0.119", "1.19D-1"),
        WATER.replace("0.119", "1.19d-01"),
        WATER.replace("0.119", "1.19*^-1"),
        WATER.replace("O ", "8 ").replace("H ", "h\t"),
        WATER.replace("-0.477", "-0.477 0.25").replace("0.119", "0.119 0.25"),
    ],
)
def test_accepted_spellings(text: str) -> None:
    (atoms,) = from_text(text)
    expected = from_text(WATER)[0]
    np.testing.assert_array_equal(atoms.numbers, expected.numbers)
    np.testing.assert_allclose(atoms.positions, expected.positions, rtol=0, atol=1e-15)


def test_blank_comment_and_several_frames() -> None:
    frames = from_text(WATER.replace("water", "") + "\n\n" + WATER)
    assert [len(atoms) for atoms in frames] == [3, 3]
    assert frames[0].info == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "-: is empty"),
        ("\n\n", "-: is empty"),
        ("abc\n", "-:1: expected a number of atoms, found 'abc'"),
        ("0\n\n", "-:1: declares 0 atoms"),
        ("-3\n\n", "-:1: expected a number of atoms"),
        ("3\n", "-:1: the file ends before the 3 atoms"),
        (WATER[: WATER.rindex("H")], "-:4: the file ends after 2 of the 3 atoms"),
        (WATER[:-10], "-:5: expected 4 columns, found 3"),
        (WATER.replace("0.119", "nan"), "-:3: 'nan' is not finite, in pos"),
        (WATER.replace("0.119", "1e999"), "-:3: '1e999' is not finite"),
        (WATER.replace("0.119", "0,119"), "-:3: '0,119' is not a number"),
        (WATER.replace("0.119", "0_1"), "-:3: '0_1' is not a number"),
        (WATER.replace("O", "Xx"), "-:3: unknown element 'Xx'"),
        (WATER.replace("O ", "X "), "-:3: unknown element 'X'"),
        (WATER.replace("O ", "119 "), "-:3: unknown element '119'"),
        (WATER + "H 1 1 1\n", "-:6: expected a number of atoms, found 'H 1 1 1'"),
        (WATER.replace("3", "2", 1), "-:5: expected a number of atoms"),
        (WATER.replace("3", "4", 1), "-:5: the file ends after 3 of the 4 atoms"),
        (WATER.replace("3\n", "999999999999\n", 1), "-:1: declares 999999999999 atoms"),
        (WATER.replace("3\n", "99999999\n", 1), "-:5: the file ends after 3 of the 99999999"),
        (WATER.replace("-0.763", "0.763"), "-:5: atoms 2 and 3 are on one spot"),
        (WATER.replace("-0.763", "-1e300"), "-:5: atom 3 is not at a finite place"),
        (WATER.replace("water", "Properties=species:S:1:pos:R:4"), "-:2: Properties lacks pos:R:3"),
        (WATER.replace("water", "Properties=pos:R:3"), "-:2: Properties lacks species:S:1"),
        (WATER.replace("water", "Properties=species:S:1:pos:R:3:a:R:99999"), "-:2: cannot under"),
        (WATER.replace("water", "Properties=species:S:1:pos:R:3:q:R:1"), "-:3: expected 5 columns"),
        (WATER.replace("water", 'Lattice="1 0 0 0 1 0 0 0"'), "-:2: Lattice has 8 numbers"),
        (WATER.replace("water", 'Lattice="1 0 0 0 1 0 0 0 nan"'), "-:2: 'nan' is not finite"),
        (WATER.replace("water", 'Lattice="9 0 0 0 9 0 9 9 0"'), "-: the cell is degenerate: 0 "),
        (WATER.replace("water", 'Lattice="9 0 0 0 9 0 0 0 1e-3"'), "the cell is degenerate: 0.001"),
        (WATER.replace("water", 'Lattice="9 0 0 0 9 0 0 0 1e7"'), "the cell is not finite, or lon"),
    ],
)
def test_refusals_name_line_and_reason(text: str, reason: str) -> None:
    assert reason in refused(text)


def test_extended_xyz_gives_cell_labels_and_columns() -> None:
    text = (
        '2\nLattice="4.0 0 0 0 5.0D0 0 1 0 6" pbc="T T F" energy=-1.5D1 name="a b" '
        "Properties=species:S:1:pos:R:3:forces:R:3:tag:I:1:fixed:L:1\n"
        "Na 0 0 0  1 2 3  7 T\nCl 2 2 2  4 5 6  8 F\n"
    )
    (atoms,) = from_text(text)
    np.testing.assert_array_equal(atoms.cell.array, [[4, 0, 0], [0, 5, 0], [1, 0, 6]])
    assert atoms.pbc.tolist() == [True, True, False]
    assert atoms.info == {"energy": -15.0, "name": "a b"}
    np.testing.assert_array_equal(atoms.arrays["forces"], [[1, 2, 3], [4, 5, 6]])
    assert atoms.arrays["tag"].tolist() == [7, 8]
    assert atoms.arrays["fixed"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("said", "expected"),
    [('"0 0 0"', [0, 0, 0]), ("{1 0 1}", [1, 0, 1]), ("[F, F, T]", [0, 0, 1]), ("1", [1, 1, 1]),
     ("T F T", [1, 0, 1])],
)  # fmt: skip
def test_periodicity_is_read_in_every_spelling(said: str, expected: list[int]) -> None:
    text = f'1\nLattice="4 0 0 0 5 0 0 0 6" pbc={said} energy=2\nO 0 0 0\n'
    ((_, atoms),) = structures.read(["-"], stdin=io.StringIO(text))
    assert atoms.pbc.tolist() == [bool(each) for each in expected]
    assert atoms.info["energy"] == 2


def test_periodicity_that_is_none_is_refused() -> None:
    text = '1\nLattice="4 0 0 0 5 0 0 0 6" pbc="maybe"\nO 0 0 0\n'
    with pytest.raises(InputError, match="neither T nor F"):
        list(structures.read(["-"], stdin=io.StringIO(text)))


def test_reads_what_ase_writes() -> None:
    ethanol, salt = molecule("CH3CH2OH"), bulk("NaCl", "rocksalt", a=5.6) * (2, 2, 2)
    ethanol.info["energy"] = -1.25
    stream = io.StringIO()
    ase_write(stream, [ethanol, salt], format="extxyz")
    for ours, theirs in zip(from_text(stream.getvalue()), [ethanol, salt], strict=True):
        np.testing.assert_array_equal(ours.numbers, theirs.numbers)
        np.testing.assert_allclose(ours.positions, theirs.positions, rtol=0, atol=1e-8)
        np.testing.assert_allclose(ours.cell.array, theirs.cell.array, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(ours.pbc, theirs.pbc)
    assert from_text(stream.getvalue())[0].info["energy"] == -1.25


def test_atoms_that_may_not_move_are_held() -> None:
    head = "2\nProperties=species:S:1:pos:R:3:move_mask:"
    whole, parts = from_text(
        f"{head}L:1\nO 0 0 0 F\nH 0 0 1 T\n{head}L:3\nO 0 0 0 F F F\nH 0 0 1 T F T\n"
    )
    forces = np.ones((2, 3))
    for atoms, moving in ((whole, [[0, 0, 0], [1, 1, 1]]), (parts, [[0, 0, 0], [1, 0, 1]])):
        assert "move_mask" not in atoms.arrays
        held = forces.copy()
        for constraint in atoms.constraints:
            constraint.adjust_forces(atoms, held)
        np.testing.assert_array_equal(held, moving)
    assert "move_mask is one or three of T and F" in refused(f"{head}R:1\nO 0 0 0 1\nH 0 0 1 0\n")


def test_held_atoms_are_written_and_read_back(tmp_path: Path) -> None:
    atoms = ase.Atoms("OH2", np.eye(3), constraint=ase.constraints.FixAtoms([0, 2]))
    structures.write(tmp_path / "held.extxyz", [atoms], [{}])
    ((_, found),) = structures.read([tmp_path / "held.extxyz"])
    assert found.constraints[0].index.tolist() == [0, 2]


def test_original_qm9_file() -> None:
    head = (
        "gdb 1\t157.7\t157.7\t157.7\t0.\t13.2\t-0.4\t0.1\t0.5\t35.4\t0.04\t-40\t-40\t-40\t-40\t6.5"
    )
    text = (
        f"1\n{head}\t\nC\t-1.2*^-6\t 1.08\t 0.008\t-0.535\n1341.3\t1341.4\nC\tC\nInChI=1\tInChI=1\n"
    )
    (atoms,) = from_text(text)
    np.testing.assert_array_equal(atoms.positions, [[-1.2e-6, 1.08, 0.008]])
    assert "before its line of InChI" in refused(text[: text.rindex("InChI=1\tI")])
    assert len(from_text(text + text)) == 2


def _two_frames() -> str:
    first, second = molecule("CH3CH2OH"), bulk("NaCl", "rocksalt", a=5.6)
    first.arrays["forces"] = np.random.RandomState(0).normal(size=(9, 3))
    stream = io.StringIO()
    ase_write(stream, [first, second], format="extxyz")
    return stream.getvalue()


def test_no_prefix_of_a_file_is_half_read() -> None:
    text = _two_frames()
    first = text.index("\n2\nLattice")
    accepted = []
    for end in range(len(text)):
        try:
            accepted.append((end, len(from_text(text[:end]))))
        except InputError:
            continue
    # Only what ends exactly behind a frame, with or without its newline, is a file.
    assert accepted == [(first, 1), (first + 1, 1), (len(text) - 1, 2)]


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_damaged_text_is_refused_or_read_as_finite_structures(data: Any) -> None:
    text = _two_frames()
    start = data.draw(st.integers(0, len(text) - 1))
    length = data.draw(st.integers(0, 30))
    junk = data.draw(st.text(max_size=10))
    try:
        frames = from_text(text[:start] + junk + text[start + length :])
    except InputError:
        return
    for atoms in frames:
        assert len(atoms) and np.isfinite(atoms.positions).all()
        assert ((atoms.numbers > 0) & (atoms.numbers < 119)).all()


def test_labels_and_files(tmp_path: Path) -> None:
    one, two = tmp_path / "one.xyz", tmp_path / "two.xyz"
    one.write_text(WATER)
    two.write_text(WATER + WATER)
    labels = [label for label, _ in structures.read([str(one), two])]
    assert labels == [str(one), f"{two}#0", f"{two}#1"]


@pytest.mark.parametrize("name", ["POSCAR", "a.cif", "a.extxyz", "a.traj", "a.gen", "a.xyz.gz"])
def test_formats_of_ase(tmp_path: Path, name: str) -> None:
    crystal = bulk("NaCl", "rocksalt", a=5.6) * (2, 1, 1)
    ase_write(tmp_path / name, crystal)
    ((label, atoms),) = structures.read([tmp_path / name])
    assert label == str(tmp_path / name)
    assert sorted(atoms.numbers) == [11, 11, 17, 17]
    assert atoms.get_volume() == pytest.approx(crystal.get_volume(), rel=1e-6)
    assert atoms.pbc.all()


def test_a_pipe_is_read_as_xyz(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(WATER,))
    writer.start()
    assert len(next(structures.read([tmp_path / "pipe"]))[1]) == 3
    writer.join()


def test_names_with_at_sign_and_without_suffix(tmp_path: Path) -> None:
    for name in ("a@b.xyz", "water"):
        (tmp_path / name).write_text(WATER)
        assert len(next(structures.read([tmp_path / name]))[1]) == 3


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("no.xyz", None, "no such file"),
        ("empty.xyz", b"", "is empty"),
        ("rubbish", b"hello world\n", "is in no format that ASE knows"),
        ("binary.xyz", bytes(range(256)) * 40, "expected a number of atoms"),
        (
            "cut.xyz.gz",
            b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x8b",
            "compressed file is not whole",
        ),
        ("bad.cif", b"data_x\nloop_\n_atom_site_label\n", "bad.cif: "),
        ("bad.json", b"{", "cannot be read as json"),
    ],
)
def test_files_that_are_refused(
    tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(structures.read([path]))
    assert reason in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_bad_frame_is_skipped_or_stops_all() -> None:
    bad = WATER.replace("0.119", "nan")
    near = WATER.replace("-0.763", "0.763")
    reports: list[str] = []
    frames = structures.read(
        ["-"],
        "skip",
        stdin=io.StringIO(WATER + bad + near + WATER),
        report=lambda error: reports.append(str(error)),
    )
    assert [label for label, _ in frames] == ["-#0", "-#3"]
    assert [text.split(" ")[0] for text in reports] == ["-:8:", "-:15:"]
    found = structures.read(["-"], stdin=io.StringIO(WATER + bad + WATER))
    assert next(found)[0] == "-#0"
    with pytest.raises(InputError, match=":8: 'nan'"):
        next(found)


def _nearest(atoms: ase.Atoms) -> float:
    """Least distance of two atoms, images included, by trying all images."""
    periodic = atoms.cell.array[atoms.pbc]
    images = np.array(list(itertools.product(range(-12, 13), repeat=len(periodic))))
    shifts = images @ periodic if len(periodic) else np.zeros((1, 3))
    least = np.inf
    for i, j in itertools.combinations_with_replacement(range(len(atoms)), 2):
        vectors = atoms.positions[i] - atoms.positions[j] + shifts
        distances = np.linalg.norm(vectors, axis=1)
        least = min(least, distances[distances > 0.0].min(initial=np.inf))  # not itself
    return float(least)


def test_two_atoms_on_one_spot_against_brute_force() -> None:
    random = np.random.RandomState(1)
    seen = {True: 0, False: 0}
    while min(seen.values()) < 20:
        atoms = ase.Atoms("HH", random.normal(size=(2, 3)) * 5, cell=random.normal(size=(3, 3)) * 2)
        atoms.pbc = random.rand(3) < 0.7
        periodic = atoms.cell.array[atoms.pbc]
        if len(periodic) and soundness._heights(periodic).min() < 0.5:
            continue
        if random.rand() < 0.6:  # near an image of the other, within the limit or just beyond
            offset = random.normal(size=3)
            offset *= random.choice([0.07, 0.12]) / np.linalg.norm(offset)
            image = random.randint(-2, 3, size=len(periodic)) @ periodic if len(periodic) else 0.0
            atoms.positions[1] = atoms.positions[0] + offset + image
        many = atoms * (1 + 2 * atoms.pbc)  # enough atoms for the tree
        close = _nearest(atoms) < soundness.CLOSEST
        seen[close] += 1
        if close:
            for found in (atoms, many):
                with pytest.raises(InputError, match="on one spot"):
                    soundness.check(found, "a")
        else:
            soundness.check(atoms, "a")
            soundness.check(many, "a")


def test_hundred_thousand_atoms_are_checked_in_a_second_or_so() -> None:
    crystal = bulk("Cu", "fcc", a=3.6, cubic=True) * (30, 30, 28)
    begin = time.process_time()
    soundness.check(crystal, "a")
    crystal.positions[:] = 1.0
    with pytest.raises(InputError, match="on one spot"):
        soundness.check(crystal, "a")
    assert time.process_time() - begin < 5.0


def test_written_results_carry_their_units(tmp_path: Path) -> None:
    frames = from_text(WATER + WATER)
    results = [
        {
            "U0": Target(np.array(-1.5 - k), "eV"),
            "forces": Target(np.full((3, 3), float(k)), "eV/Angstrom", "atom"),
        }
        for k in range(2)
    ]
    structures.write(tmp_path / "out.xyz", frames, results)
    read = [atoms for _, atoms in structures.read([tmp_path / "out.xyz"])]
    assert [atoms.info["U0_eV"] for atoms in read] == [-1.5, -2.5]
    np.testing.assert_array_equal(read[1].arrays["forces_eV_per_Angstrom"], np.ones((3, 3)))
    assert read[0].info["comment"] == "water"


def test_labels_that_nobody_computed_do_not_matter_to_a_structure() -> None:
    text = "1\nProperties=species:S:1:pos:R:3:forces:R:3\nO 0 0 0 nan nan nan\n"
    (atoms,) = from_text(text)
    assert np.isnan(atoms.arrays["forces"]).all()


def test_comments_in_latin_1_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_bytes("1\nname=caf\u00e9\nO 0 0 0\n".encode("latin-1"))
    assert next(structures.read([tmp_path / "a.xyz"]))[1].info["name"] == "caf\u00e9"
    (tmp_path / "a.xyz").write_bytes("1\nname=caf\u00e9\nO 0 0 0\n".encode())
    assert next(structures.read([tmp_path / "a.xyz"]))[1].info["name"] == "caf\u00e9"
