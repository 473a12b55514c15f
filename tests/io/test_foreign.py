"""Formats that ASE reads, each file looked at first: POSCAR, CIF, and how much a reader may use."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read as ase_read
from ase.io import write as ase_write

from neupol_cli.errors import InputError
from neupol_cli.io import structures
from neupol_cli.io.structure_formats import records
from neupol_cli.io.structure_formats.frame import Reading


def _poscar(tmp_path: Path) -> str:
    ase_write(tmp_path / "POSCAR", bulk("NaCl", "rocksalt", a=5.6), direct=True)
    return (tmp_path / "POSCAR").read_text()


def test_no_prefix_of_a_poscar_is_half_read(tmp_path: Path) -> None:
    text = _poscar(tmp_path)
    for end in range(1, len(text) - 1):
        (tmp_path / "POSCAR").write_text(text[:end])
        with pytest.raises(InputError):
            list(structures.read([tmp_path / "POSCAR"]))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("   1   1", "   1   99999999999999", ":7: declares"),
        ("   1   1", "   1   2", ":10: ends after 2 of 3 atoms"),
        ("   1   1", "   1", ":10: a row beyond the 1 atoms"),
        ("Direct", "Somehow", ":9: expected Direct or Cartesian"),
        ("Direct", "Mixed", ":8: expected Direct or Cartesian"),
        ("0.5000000000000000", "nan", ":10: '-nan' is not finite"),
    ],
)
def test_poscar_that_does_not_add_up(tmp_path: Path, old: str, new: str, reason: str) -> None:
    text = _poscar(tmp_path)
    assert old in text
    (tmp_path / "POSCAR").write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        list(structures.read([tmp_path / "POSCAR"]))
    assert reason in str(caught.value)


def test_poscar_spellings(tmp_path: Path) -> None:
    text = _poscar(tmp_path)
    expected = ase_read(tmp_path / "POSCAR")
    changed = text.replace("2.7999999999999998", "0.27999999999999998D+01").replace("\n", "\r\n")
    (tmp_path / "POSCAR").write_bytes(b"\xef\xbb\xbf" + changed.encode())
    ((_, atoms),) = structures.read([tmp_path / "POSCAR"])
    np.testing.assert_allclose(atoms.positions, expected.positions, rtol=0, atol=1e-12)
    (tmp_path / "POSCAR").write_text(text + "\n  0.0 0.0 0.0\n  0.0 0.0 0.0\n")  # velocities
    assert len(next(structures.read([tmp_path / "POSCAR"]))[1]) == 2


def test_truncated_cif_misses_its_formula(tmp_path: Path) -> None:
    ase_write(tmp_path / "a.cif", bulk("NaCl", "rocksalt", a=5.6) * (2, 1, 1))
    lines = (tmp_path / "a.cif").read_text().splitlines()
    for rows in (1, 2, 3):
        (tmp_path / "a.cif").write_text("\n".join(lines[:-rows]) + "\n")
        with pytest.raises(InputError, match="sites are missing"):
            list(structures.read([tmp_path / "a.cif"]))


def test_vasp_4_needs_its_elements(tmp_path: Path) -> None:
    ase_write(tmp_path / "POSCAR", bulk("NaCl", "rocksalt", a=5.6), direct=True)
    lines = (tmp_path / "POSCAR").read_text().splitlines(keepends=True)
    without = ["a crystal\n", *lines[1:5], *lines[6:]]
    (tmp_path / "POSCAR").write_text("".join(without))
    with pytest.raises(InputError, match="POSCAR:6: no elements are named for 2 counts; name them"):
        list(structures.read([tmp_path / "POSCAR"]))
    reading = Reading(species=("Si", "O"))
    ((_, atoms),) = structures.read([tmp_path / "POSCAR"], reading=reading)
    assert atoms.get_chemical_symbols() == ["Si", "O"]
    with pytest.raises(InputError, match="--species names 1"):
        list(structures.read([tmp_path / "POSCAR"], reading=Reading(species=("Si",))))
    (tmp_path / "POSCAR").write_text("".join(["Na Cl\n", *without[1:]]))  # in the title
    ((_, atoms),) = structures.read([tmp_path / "POSCAR"])
    assert atoms.get_chemical_symbols() == ["Na", "Cl"]


CIF = """data_x
_cell_length_a 5
_cell_length_b 5
_cell_length_c 5
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
{formula}loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
{sites}
"""
MIXED = "C1 C 0 0 0 0.5\nN1 N 0 0 0 0.5\nO1 O 0.3 0 0 1\nO2 O 0.7 0 0 1"
APART = "C1 C 0 0 0 1\nO1 O 0.3 0 0 0.5(1)"


@pytest.mark.parametrize("sites", [MIXED, APART])
@pytest.mark.parametrize("formula", ["", "_chemical_formula_sum 'C0.5 N0.5 O2'\n"])
@pytest.mark.parametrize("name", ["a.cif", "a.cif.gz"])
def test_partly_occupied_sites_are_refused_however_wrapped(
    sites: str, formula: str, name: str, tmp_path: Path
) -> None:
    data = CIF.format(formula=formula, sites=sites).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    with pytest.raises(InputError, match="partly occupied"):
        list(structures.read([tmp_path / name]))


def test_deuterium_is_hydrogen(tmp_path: Path) -> None:
    sites = "O1 O 0 0 0 1\nD1 D 0.2 0 0 1\nD2 D 0 0.2 0 1"
    text = CIF.format(formula="_chemical_formula_sum 'D2 O'\n", sites=sites)
    (tmp_path / "a.cif").write_text(text)
    ((_, atoms),) = structures.read([tmp_path / "a.cif"])
    assert sorted(atoms.numbers) == [1, 1, 8]


def test_every_block_of_a_cif_is_read_or_missed(tmp_path: Path) -> None:
    one = CIF.format(formula="", sites="O1 O 0 0 0 1")
    (tmp_path / "a.cif").write_text(one + one.replace("data_x", "data_y"))
    assert len(list(structures.read([tmp_path / "a.cif"]))) == 2
    with pytest.raises(InputError, match="holds 2 structures, of which 1 could be read"):
        records.check("cif", one + one, [bulk("Cu")], "a.cif")


COM = "#p {}\n\ntitle\n\n0 1\nO 0.0 0.0 0.0\nH 0.0 0.0 1.0\n\n"
DUMP = (
    "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n1\nITEM: BOX BOUNDS pp pp pp\n0 9\n0 9\n0 9\n"
    "ITEM: ATOMS {}\n{}\n"
)
GRO = "title\n1\n    1WAT     OW    1   0.100   0.100   0.100\n   1.00000   1.00000   1.00000\n"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.com", COM.format("hf units=au"), "says units=au"),
        ("a.com", COM.format("hf") + "--Link1--\n" + COM.format("mp2"), "holds several jobs"),
        ("a.gro", GRO + GRO[:-40], "a.gro:7: the file ends where the box behind 1 atoms"),
        ("a.gro", GRO.replace("1\n", "9\n", 1), "a.gro:4: the file ends where the box behind 9"),
        ("a.dump", DUMP.format("id type x y z", "1 1 0 0 0"), "names types, not elements"),
    ],
)
def test_what_ase_passes_over_is_refused(name: str, text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=reason):
        list(structures.read([tmp_path / name]))


def test_every_frame_of_a_gro_file(tmp_path: Path) -> None:
    (tmp_path / "a.gro").write_text(GRO + GRO.replace("0.100\n", "0.200\n"))
    found = [atoms for _, atoms in structures.read([tmp_path / "a.gro"])]
    assert [atoms.positions[0, 2] for atoms in found] == pytest.approx([1.0, 2.0])  # nm
    assert found[0].cell.lengths() == pytest.approx([10.0] * 3)
    assert found[0].info == {"comment": "title"}


@pytest.mark.parametrize("name", ["XDATCAR", "XDATCAR.gz"])
def test_absurd_counts_of_foreign_formats_are_refused_fast(name: str, tmp_path: Path) -> None:
    """However much free memory the process holds: its reader stops soon after the last line."""
    written = io.StringIO()
    ase_write(written, bulk("NaCl", "rocksalt", a=5.6), format="vasp-xdatcar")
    lines = written.getvalue().splitlines(keepends=True)
    lines[6] = f"{lines[6].split()[0]} 99999999999\n"
    data = "".join(lines).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    begin = time.process_time()
    with pytest.raises(InputError, match=f"{name}: declares far more data than it holds"):
        list(structures.read([tmp_path / name]))
    assert time.process_time() - begin < 5.0


MARGIN = """
from neupol_cli.allocator import keep_large_blocks
from neupol_cli.errors import InputError
from neupol_cli.io.structure_formats.foreign import bounded
keep_large_blocks()
held = []
for _ in range(20):
    with bounded("POSCAR", "POSCAR", 80_000):  # which may use 224 MB
        held.append(bytearray(32 << 20))
try:
    with bounded("POSCAR", "POSCAR", 80_000):
        bytearray(1 << 30)
except InputError as error:
    print(len(held), error)
"""


def test_a_healthy_file_is_read_wherever_the_heap_has_to_grow() -> None:
    """Twenty reads use up the heap's padding twice, whatever was free at the start."""
    command = [sys.executable, "-c", MARGIN]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "20 POSCAR: declares far more data than it holds\n"
