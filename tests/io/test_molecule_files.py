"""SDF, mol2, PDB and Turbomole: every record, every unit, nobody's second choice."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import ase
import numpy as np
import pytest
from ase.build import molecule
from ase.io import write as ase_write

from neupol_cli.errors import InputError
from neupol_cli.io import structures
from neupol_cli.io.structure_formats.frame import Reading
from neupol_cli.io.units import BOHR

NAMES = ("H2O", "CH4", "NH3")


def read(path: Path, **reading) -> list[ase.Atoms]:
    return [atoms for _, atoms in structures.read([path], reading=Reading(**reading))]


def refused(path: Path, **reading) -> str:
    with pytest.raises(InputError) as caught:
        read(path, **reading)
    return str(caught.value)


def sdf(name: str, charge: str = "", items: str = "") -> str:
    atoms = molecule(name)
    head = (
        f"{name}\n  neupol  01010000003D\n\n{len(atoms):3d}  0  0  0  0  0  0  0  0  0999 V2000\n"
    )
    rows = "".join(
        "".join(f"{x:10.4f}" for x in place) + f" {symbol:<3s} 0  0\n"
        for symbol, place in zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)
    )
    return f"{head}{rows}{charge}M  END\n{items}$$$$\n"


def test_an_sdf_gives_all_of_its_records_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.sdf").write_text("".join(map(sdf, NAMES)))
    found = read(tmp_path / "a.sdf")
    assert [atoms.info["comment"] for atoms in found] == list(NAMES)
    for atoms, name in zip(found, NAMES, strict=True):
        np.testing.assert_array_equal(atoms.numbers, molecule(name).numbers)
        np.testing.assert_allclose(atoms.positions, molecule(name).positions, rtol=0, atol=6e-5)


def test_charges_and_data_items_of_an_sdf_survive(tmp_path: Path) -> None:
    text = sdf("NH3", "M  CHG  2   1   1   2  -2\n", ">  <energy>\n-1.5\n\n> <uid>\n3d2\n\n")
    (tmp_path / "a.sdf").write_text(text)
    (atoms,) = read(tmp_path / "a.sdf")
    assert atoms.info == {"comment": "NH3", "charge": -1, "energy": -1.5, "uid": "3d2"}
    (tmp_path / "b.sdf").write_text(sdf("NH3").replace("N   0  0", "N   0  3"))  # the old column
    assert read(tmp_path / "b.sdf")[0].info["charge"] == 1


def test_an_item_of_an_sdf_that_only_begins_like_json_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.sdf").write_text(sdf("NH3", items="> <note>\n_JSON of sorts\n\n"))
    assert read(tmp_path / "a.sdf")[0].info["note"] == "_JSON of sorts"


def test_columns_of_an_sdf_may_touch(tmp_path: Path) -> None:
    text = sdf("H2O").replace("    0.0000    0.0000    0.1193", "-1000.0000-2000.0000    0.1193")
    (tmp_path / "a.sdf").write_text(text)
    np.testing.assert_array_equal(read(tmp_path / "a.sdf")[0].positions[0], [-1000, -2000, 0.1193])


V3000 = """water
  neupol  01010000003D

  0  0  0     0  0            999 V3000
M  V30 BEGIN CTAB
M  V30 COUNTS 3 0 0 0 0
M  V30 BEGIN ATOM
M  V30 1 O 0 0 0.119 0 CHG=-
M  V30 -1
M  V30 2 H 0 0.763 -0.477 0
M  V30 3 H 0 -0.763 -0.477 0
M  V30 END ATOM
M  V30 END CTAB
M  END
$$$$
"""


def test_v3000_beside_v2000(tmp_path: Path) -> None:
    (tmp_path / "a.sdf").write_text(V3000 + sdf("CH4"))
    water, methane = read(tmp_path / "a.sdf")
    assert (water.get_chemical_formula(), methane.get_chemical_formula()) == ("H2O", "CH4")
    assert water.info["charge"] == -1 and water.positions[1, 1] == 0.763


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace("M  END\n", "", 1), "no line 'M END'"),
        (lambda text: text.replace("3D", "2D", 1), "a.sdf:2: its coordinates are a drawing"),
        (lambda text: text.replace("  3  0", "  9  0", 1), "ends before its 9 atoms"),
        (lambda text: text.replace(" O ", " R#", 1), "unknown element 'R#'"),
        (lambda text: text.replace("0.1193", "nan   ", 1), "a.sdf:5: 'nan' is not finite"),
    ],
)
def test_a_bad_record_is_named_and_the_next_ones_are_read(
    tmp_path: Path, change: Callable[[str], str], reason: str
) -> None:
    (tmp_path / "a.sdf").write_text(change("".join(map(sdf, NAMES))))
    assert reason in refused(tmp_path / "a.sdf")
    errors: list[InputError] = []
    frames = structures.read([tmp_path / "a.sdf"], "skip", report=errors.append)
    assert [atoms.get_chemical_formula() for _, atoms in frames] == ["CH4", "H3N"]
    assert len(errors) == 1


@pytest.mark.parametrize(
    ("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_compressed_files_are_as_good(tmp_path: Path, ending: str, pack) -> None:
    ase_write(tmp_path / "b.pdb", molecule("CH4"))
    for name, text in (
        ("a.sdf", sdf("CH4").encode()),
        ("b.pdb", (tmp_path / "b.pdb").read_bytes()),
    ):
        (tmp_path / (name + ending)).write_bytes(pack(text))
        assert len(read(tmp_path / (name + ending))[0]) == 5


MOL2 = """@<TRIPOS>MOLECULE
water
3 2 0 0 0
SMALL
USER_CHARGES

@<TRIPOS>ATOM
1 O1 0.0 0.0 0.119 O.3 1 W -1.0
2 H1 0.0 0.763 -0.477 H 1 W 0.0
3 H2 0.0 -0.763 -0.477 H 1 W 0.0
@<TRIPOS>BOND
1 1 2 1
2 1 3 1
"""


def test_mol2(tmp_path: Path) -> None:
    (tmp_path / "a.mol2").write_text(MOL2 + MOL2.replace("O.3", "S.3"))
    first, second = read(tmp_path / "a.mol2")
    assert (first.get_chemical_formula(), second.get_chemical_formula()) == ("H2O", "H2S")
    assert first.info == {"comment": "water", "charge": -1}
    for change in (("3 2 0", "4 2 0"), ("2 1 3 1\n", ""), ("O.3", "Du")):
        (tmp_path / "b.mol2").write_text(MOL2.replace(*change))
        assert "b.mol2:" in refused(tmp_path / "b.mol2")


def atom(serial: int, name: str, place: tuple, altloc: str = " ", occupancy: float = 1.0,
         element: str = "") -> str:  # fmt: skip
    x, y, z = place
    return (
        f"HETATM{serial:5d} {name:<4s}{altloc}HOH A   1    {x:8.3f}{y:8.3f}{z:8.3f}"
        f"{occupancy:6.2f}  0.00          {element:>2s}\n"
    )


WATER = [("O", (0, 0, 0.119)), ("H1", (0, 0.763, -0.477)), ("H2", (0, -0.763, -0.477))]


def pdb(**kwargs) -> str:
    return "".join(
        atom(k + 1, f" {name}", place, element=name[0], **kwargs)
        for k, (name, place) in enumerate(WATER)
    )


def test_pdb_models_with_and_without_the_word(tmp_path: Path) -> None:
    moved = pdb().replace("0.119", "0.120")
    texts = {
        "models": f"MODEL        1\n{pdb()}ENDMDL\nMODEL        2\n{moved}ENDMDL\nEND\n",
        "ends": f"{pdb()}ENDMDL\n{moved}ENDMDL\nEND\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.pdb").write_text(text)
        found = read(tmp_path / f"{name}.pdb")
        assert [atoms.positions[0, 2] for atoms in found] == [0.119, 0.120]
    (tmp_path / "cut.pdb").write_text(f"MODEL        1\n{pdb()}")
    assert "a MODEL without its ENDMDL" in refused(tmp_path / "cut.pdb")


@pytest.mark.parametrize(
    ("head", "info"),
    [
        ("COMPND    ethanol\n", {"comment": "ethanol"}),
        ("HEADER    PLANT PROTEIN                           30-APR-81   1CRN\n"
         "TITLE     WATER STRUCTURE OF A HYDROPHOBIC\nTITLE    2 PROTEIN\nCOMPND    MOL_ID: 1;\n",
         {"ID": "1CRN", "comment": "WATER STRUCTURE OF A HYDROPHOBIC PROTEIN"}),
        ("COMPND    MOL_ID: 1;\n", {}),
    ],
)  # fmt: skip
def test_a_pdb_has_names(tmp_path: Path, head: str, info: dict[str, str]) -> None:
    (tmp_path / "a.pdb").write_text(f"{head}{pdb()}END\n")
    assert read(tmp_path / "a.pdb")[0].info == info


def test_a_pdb_without_end_is_read_and_said(tmp_path: Path, capsys) -> None:
    (tmp_path / "a.pdb").write_text(pdb())
    assert len(read(tmp_path / "a.pdb")[0]) == 3
    assert "has no END record" in capsys.readouterr().err
    (tmp_path / "a.pdb").write_text(pdb()[:-30])
    assert "truncated" in refused(tmp_path / "a.pdb")


def test_alternate_locations_are_chosen_not_mixed(tmp_path: Path) -> None:
    text = atom(1, " O", WATER[0][1], element="O")
    for serial, place in enumerate(((0, 0.763, -0.477), (0, -0.763, -0.477))):
        for altloc, shift in (("A", 0.0), ("B", 0.4)):
            x, y, z = place
            text += atom(serial + 2, " H", (x + shift, y, z), altloc, 0.5, "H")
    (tmp_path / "a.pdb").write_text(text + "END\n")
    assert "alternate locations A, B; choose one: --altloc A" in refused(tmp_path / "a.pdb")
    for altloc, shift in (("A", 0.0), ("B", 0.4)):
        (atoms,) = read(tmp_path / "a.pdb", altloc=altloc)
        assert atoms.get_chemical_formula() == "H2O" and atoms.positions[1, 0] == shift
    assert "has no location 'C', but A, B" in refused(tmp_path / "a.pdb", altloc="C")
    (tmp_path / "b.pdb").write_text(pdb(occupancy=0.5) + "END\n")
    assert "occupancy 0.5" in refused(tmp_path / "b.pdb")


def test_elements_of_a_pdb_without_columns_for_them(tmp_path: Path) -> None:
    rows = {" CA ": 6, "HG21": 1, " N  ": 7, "ZN  ": 30, " OXT": 8, "1HB ": 1}
    for name, number in rows.items():
        text = atom(1, "XXXX", (0, 0, 0)).replace("XXXX", name)[:66] + "\nEND\n"
        (tmp_path / "a.pdb").write_text(text)
        assert read(tmp_path / "a.pdb")[0].numbers.tolist() == [number], name
    (tmp_path / "a.pdb").write_text(atom(1, "CA  ", (0, 0, 0))[:66] + "\nEND\n")
    assert "columns 77 and 78" in refused(tmp_path / "a.pdb")


def test_a_pdbs_cell_and_what_is_none(tmp_path: Path) -> None:
    cell = "CRYST1   20.000   21.000   22.000  90.00  90.00  90.00 P 1           1\n"
    (tmp_path / "a.pdb").write_text(cell + pdb() + "END\n")
    (atoms,) = read(tmp_path / "a.pdb")
    assert atoms.pbc.all() and atoms.cell.lengths().tolist() == [20, 21, 22]
    (atoms,) = read(tmp_path / "a.pdb", pbc=False)
    assert not atoms.pbc.any()
    (tmp_path / "a.pdb").write_text(cell.replace("P 1    ", "P 21 21") + pdb() + "END\n")
    assert "the cell holds more atoms" in refused(tmp_path / "a.pdb")
    dummy = "CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1\n"
    (tmp_path / "a.pdb").write_text(dummy + pdb() + "END\n")
    assert not read(tmp_path / "a.pdb")[0].pbc.any()


COORD = "$coord{}\n 0 0 0.119 o\n 0 0.763 -0.477 h f\n 0 -0.763 -0.477 h\n{}$end\n"


@pytest.mark.parametrize(("word", "unit"), [(" angs", 1.0), ("", BOHR), (" bohr", BOHR)])
def test_turbomoles_unit_words(tmp_path: Path, word: str, unit: float) -> None:
    (tmp_path / "coord").write_text(COORD.format(word, "$eht charge=-1 unpaired=1\n"))
    (atoms,) = read(tmp_path / "coord")
    np.testing.assert_allclose(atoms.positions[1], [0, 0.763 * unit, -0.477 * unit], atol=1e-12)
    assert not atoms.pbc.any() and atoms.info == {"charge": -1, "spin": 1}
    assert atoms.constraints[0].index.tolist() == [1]


def test_turbomoles_cells(tmp_path: Path) -> None:
    lattice = "$periodic 3\n$lattice angs\n 8 0 0\n 0 9 0\n 1 0 10\n"
    (tmp_path / "coord").write_text(COORD.format("", lattice))
    (atoms,) = read(tmp_path / "coord")
    np.testing.assert_array_equal(atoms.cell.array, [[8, 0, 0], [0, 9, 0], [1, 0, 10]])
    assert atoms.pbc.all() and atoms.positions[1, 1] == pytest.approx(0.763 * BOHR)
    (tmp_path / "coord").write_text(COORD.format(" frac", "$periodic 2\n$cell\n 20 30 90\n"))
    (atoms,) = read(tmp_path / "coord")
    assert atoms.pbc.tolist() == [True, True, False]
    assert atoms.positions[1] == pytest.approx([0, 0.763 * 30 * BOHR, -0.477 * BOHR])
    for text in (COORD.format(" miles", ""), COORD.format("", "$periodic 3\n"), "$coord\n"):
        (tmp_path / "coord").write_text(text)
        assert "coord" in refused(tmp_path / "coord")
