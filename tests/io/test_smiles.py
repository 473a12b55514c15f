"""SMILES: what is one, what is built of it, what it leaves open, and what is refused."""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path

import ase
import numpy as np
import pytest

from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import charges, said, structures
from neupol_cli.io.structure_formats import smiles, smiles_lines
from neupol_cli.models import workers

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


def built(word: str) -> ase.Atoms:
    ((label, atoms),) = structures.read([word])
    assert label == word
    return atoms


def lines(text: str) -> list[tuple[str, ase.Atoms]]:
    return list(structures.read(["-"], stdin=io.StringIO(text)))


def comments(text: str) -> list[object]:
    return [atoms.info.get("comment") for _, atoms in lines(text)]


def refused(*sources: str | Path, text: str = "") -> str:
    with pytest.raises(InputError) as caught:
        list(structures.read(sources or ["-"], stdin=io.StringIO(text)))
    return str(caught.value)


def test_a_word_becomes_a_molecule_with_its_hydrogens() -> None:
    atoms = built(ASPIRIN)
    assert atoms.get_chemical_formula() == "C9H8O4"
    assert atoms.info == {"smiles": ASPIRIN}
    assert not atoms.pbc.any()
    distances = atoms.get_all_distances()
    # The SMILES' atoms in their order: a methyl group's C, a carboxyl group's C and =O.
    assert distances[0, 1] == pytest.approx(1.50, abs=0.03)
    assert distances[1, 2] == pytest.approx(1.22, abs=0.03)
    rings = [distances[k, k + 1] for k in range(4, 9)]
    np.testing.assert_allclose(rings, 1.40, rtol=0, atol=0.02)


def test_water_has_the_geometry_of_the_force_field() -> None:
    atoms = built("O")
    np.testing.assert_array_equal(atoms.numbers, [8, 1, 1])
    # MMFF94's own equilibrium: 0.969 Angstrom, 103.978 degrees.
    assert atoms.get_distance(0, 1) == pytest.approx(0.969, abs=1e-3)
    assert atoms.get_angle(1, 0, 2) == pytest.approx(103.978, abs=0.05)


def test_the_geometry_is_the_same_each_time_and_on_any_number_of_threads() -> None:
    words = [ASPIRIN, "CCO", "C1CCCCC1", "c1ccccc1", "CC(C)C[C@H](N)C(=O)O"] * 4
    alone = [atoms.positions for _, atoms in lines("\n".join(words))]
    try:
        workers.use(4)
        together = [atoms.positions for _, atoms in lines("\n".join(words))]
    finally:
        workers.use(1)
        sys.setswitchinterval(0.005)
    for word, one, other in zip(words, alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, built(word).positions)


@pytest.mark.parametrize(
    ("word", "charge", "multiplicity"),
    [
        ("CCO", None, None),
        ("[NH4+]", 1, None),
        ("CC(=O)[O-]", -1, None),
        ("C[N+](C)(C)CC(=O)[O-]", None, None),  # betaine: none in all
        ("[CH3]", None, 2),
        ("[CH2]", None, 3),
        ("C[O+]", 1, 3),
    ],
)
def test_charges_and_unpaired_electrons_travel(
    word: str, charge: int | None, multiplicity: int | None
) -> None:
    atoms = built(word)
    assert charges.total_charge(atoms) == charge
    assert charges.multiplicity(atoms) == multiplicity


def test_stereocentres_are_as_they_are_written() -> None:
    places = [built(word).positions[:5] for word in ("N[C@@H](C)C(=O)O", "N[C@H](C)C(=O)O")]
    hands = [np.linalg.det(p[[0, 2, 3]] - p[1]) for p in places]  # N, CH3, COOH seen from C
    assert hands[0] * hands[1] < 0
    trans, cis = (built(word).get_distance(0, 3) for word in ("F/C=C/F", "F/C=C\\F"))
    assert trans > 3.4 and cis < 3.0


@pytest.mark.parametrize(
    ("word", "doubt"),
    [
        ("CC(O)N", "one of up to 2 stereoisomers that its SMILES allows: C[C@"),
        ("CC1CCC(C)CC1", "one of up to 4 stereoisomers"),
        ("FC=CF", "one of up to 2 stereoisomers that its SMILES allows: F/C=C"),
        ("O.O", "2 molecules, put 4 Angstrom apart"),
        ("[2H]OC", "isotopes (2H) count as their elements"),
        ("[CH2]", "2 unpaired electrons were taken for parallel"),
        ("OB(O)O", "its geometry is UFF's, as MMFF94 has no parameters for it"),
    ],
)
def test_what_is_left_open_is_doubted(
    word: str, doubt: str, capsys: pytest.CaptureFixture[str]
) -> None:
    atoms = built(word)
    note, line = capsys.readouterr().err.splitlines()
    assert note == f"neupol: {smiles.NOTE}"
    assert line.startswith(f"neupol: {word}: doubtful: {doubt}")
    assert said.DOUBTS not in atoms.info
    ((_, kept),) = structures.read([word], doubts_told=False)
    assert kept.info[said.DOUBTS][0].startswith(doubt)
    assert capsys.readouterr().err.splitlines() == [note]


@pytest.mark.parametrize("word", ["C[C@H](O)N", "F/C=C/F", ASPIRIN, "c1ccccc1", "C[N+](=O)[O-]"])
def test_what_is_settled_is_not_doubted(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    built(word)
    assert capsys.readouterr().err == f"neupol: {smiles.NOTE}\n"


def test_the_stereoisomer_that_is_named_is_the_one_that_is_built() -> None:
    from rdkit import Chem

    for word in ("CC(O)N", "CC(F)C(Cl)C", "FC=CCl"):
        named = smiles.molecule(word).doubts[0].rpartition(" ")[2]
        assert Chem.CanonSmiles(named) == named
        assert Chem.FindMolChiralCenters(Chem.MolFromSmiles(named), includeUnassigned=True) == (
            Chem.FindMolChiralCenters(Chem.MolFromSmiles(named), includeUnassigned=False)
        )
        assert smiles.molecule(named).doubts == ()


def test_molecules_with_a_dot_lie_beside_each_other() -> None:
    atoms = built("CCO.O.[Na+].[Cl-]")
    numbers = list(atoms.numbers[:6])
    assert numbers == [6, 6, 8, 8, 11, 17]  # the order of the SMILES
    assert charges.total_charge(atoms) is None
    apart = atoms.get_all_distances()[:6, :6]
    assert apart[2, 1] < 1.6
    for first, second in ((2, 3), (3, 4), (4, 5)):
        assert apart[first, second] > smiles.APART - 1e-9


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("C1CC", "as a SMILES it cannot be read by RDKit"),
        ("CC(=O", "as a SMILES it cannot be read by RDKit"),
        ("c1ccccc1C(C)(C)(C)C", "it is no molecule: Explicit valence for atom # 6 C, 5"),
        ("c1cccc1", "it is no molecule: Can't kekulize mol"),
        ("*C", "has a wildcard (*) in place of an atom"),
        ("CC>>CO", "is a reaction"),
        ("C1#CC1", "gets no places for its atoms from RDKit"),
        ("F[Xe]F", "has atoms that neither MMFF94 nor UFF knows"),
        ("C" * 150, "has 452 atoms; at most 300"),
        ("C" * 5000, "has 5000 characters"),
    ],
)
def test_what_is_no_molecule_is_refused_in_a_line(word: str, reason: str) -> None:
    message = refused(word)
    assert message.startswith(f"{word}: no such file, and as a SMILES it ") and reason in message


def test_a_path_that_exists_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("CO").write_text("1\n\nHe 0 0 0\n")
    assert built("CO").get_chemical_formula() == "He"
    Path("CO").unlink()
    assert built("CO").get_chemical_formula() == "CH4O"
    for name in ("nofile.xyz", "water", "a/b.smi", "C/C.xyz", "*.xyz", ""):
        assert not smiles.looks_like(name)
    assert refused("nofile.xyz") == "nofile.xyz: no such file, and no SMILES"


LIST = "# made by hand\nSMILES name\nCCO ethanol\n\nc1ccccc1\tbenzene, dry\n# O water\nO\n"


def test_lines_with_names_comments_and_a_heading(tmp_path: Path) -> None:
    (tmp_path / "a.smi").write_text(LIST)
    (tmp_path / "b.smi.gz").write_bytes(gzip.compress(LIST.encode()))
    for name in ("a.smi", "b.smi.gz"):
        found = list(structures.read([tmp_path / name]))
        assert [label for label, _ in found] == [f"{tmp_path / name}#{k}" for k in range(3)]
        assert [atoms.get_chemical_formula() for _, atoms in found] == ["C2H6O", "C6H6", "H2O"]
        names = [atoms.info.get("comment") for _, atoms in found]
        assert names == ["ethanol", "benzene, dry", None]
        assert found[1][1].info["smiles"] == "c1ccccc1"
    assert comments(LIST) == ["ethanol", "benzene, dry", None]
    assert comments("\ufeffCCO a\r\nCC b\r\n") == ["a", "b"]


TABLE = 'id,Smiles,name,logP\n007,CCO,"ethanol, dry",-0.31\n8,c1ccccc1,,2\n'


@pytest.mark.parametrize(("ending", "separator"), [("csv", ","), ("tsv", "\t"), ("csv", ";")])
def test_columns_of_a_table_travel(tmp_path: Path, ending: str, separator: str) -> None:
    path = tmp_path / f"a.{ending}"
    rows = TABLE.replace("ethanol,", "ethanol~").replace(",", separator).replace("~", ",")
    path.write_text(rows)
    (_, first), (_, second) = structures.read([path])
    assert first.info == {"id": "007", "name": "ethanol, dry", "logP": -0.31, "smiles": "CCO"}
    assert second.info == {"id": 8, "logP": 2, "smiles": "c1ccccc1"}
    (_, piped), _ = lines(rows)
    assert piped.info == first.info
    np.testing.assert_array_equal(piped.positions, first.positions)


def test_a_column_may_be_called_canonical_smiles_if_it_is_the_only_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n,canonical_smiles\n1,CCO\n")
    ((_, atoms),) = structures.read([tmp_path / "a.csv"])
    assert atoms.get_chemical_formula() == "C2H6O"
    (tmp_path / "b.csv").write_text("a_smiles,b_smiles\nC,CC\n")
    assert "b.csv:1: has no column 'smiles', only a_smiles,b_smiles" in refused(tmp_path / "b.csv")


def test_a_rows_charge_agrees_with_its_smiles() -> None:
    ((_, atoms),) = lines("smiles,charge,multiplicity\nO=O,0,3\n")
    assert (atoms.info["charge"], atoms.info["multiplicity"]) == (0, 3)
    message = refused(text="smiles,charge\n[NH4+],1\n[NH4+],0\n")
    assert message == "-:3: '[NH4+]' has charge 1, its row says 0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CCO a\nC1CC b\n", "-:2: 'C1CC' cannot be read by RDKit"),
        ("# a\n\nsmiles\nXx\n", "-:4: 'Xx' cannot be read by RDKit"),
        ("CCO a\nO 0 0 0.119\n", "-:2: 'O' and three numbers are an atom of an xyz file"),
        ("CCO |^1:0| a\n", "-:1: 'CCO' has an extension (|...|), which is not read"),
        ("smiles,n\nCCO\n", "-:2: has 1 columns, the heading 2"),
        ("n,smiles\n1,CCO\n2,\n", "-:3: has no SMILES"),
        ("n,smiles\n1,CC O\n", "-:2: 'CC O' cannot be read by RDKit"),
        ('n,smiles\n"1,CCO\n', "-:2: is no row of a table: unexpected end of data"),
        ("smiles\n", "-: holds no SMILES"),
        ("name,smiles\n", "-: holds no SMILES"),
        ("abc\n", "-:1: expected a number of atoms, found 'abc'"),
        ("", "-: is empty"),
    ],
)
def test_a_broken_line_is_named(text: str, message: str) -> None:
    assert refused(text=text).startswith(message)


def test_a_last_line_without_an_end_is_doubted(capsys: pytest.CaptureFixture[str]) -> None:
    """Of half a SMILES nothing else tells."""
    for text in ("O a\nCC", "n,smiles\n1,O\n2,CC"):
        lines(text)
        _, line = capsys.readouterr().err.splitlines()
        assert line == "neupol: -#1: doubtful: its line does not end: it may have been cut short"


def test_lists_without_a_smiles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.smi").write_text("\n# nothing\n")
    assert refused(tmp_path / "a.smi").endswith("a.smi: holds no SMILES")
    (tmp_path / "a.csv").write_text("structure,formula\nwater,H2O\n")
    wanted = "a.csv:1: has no column 'smiles', only structure,formula"
    assert refused(tmp_path / "a.csv").endswith(wanted)


def test_broken_lines_are_left_out_and_the_order_stays() -> None:
    errors: list[InputError] = []
    text = "CCO a\nC1CC b\nC c\n*C d\nCC e\n"
    found = list(structures.read(["-"], "skip", io.StringIO(text), errors.append))
    assert [label for label, _ in found] == ["-#0", "-#2", "-#4"]
    assert [atoms.info["comment"] for _, atoms in found] == ["a", "c", "e"]
    assert [str(error)[:4] for error in errors] == ["-:2:", "-:4:"]


@pytest.mark.parametrize(
    ("first", "answer"),
    [
        (["3\n", "CO\n"], False),
        (["CCO ethanol\n"], True),
        (["smiles\n"], True),
        (["id\tSMILES\n"], True),
        (["O 0 0 0.119\n"], False),  # rows of xyz whose count is gone
        (["Cl 0.0 1e-3 2.0 extra\n"], False),
        (["water\n"], None),
        (["broken\n", "CCO\n", "CC\n"], True),
        (["broken\n", "CO\n", "C 0 0 0\n"], False),
        ([], None),
    ],
)
def test_what_a_text_without_a_name_is(first: list[str], answer: bool | None) -> None:
    assert smiles_lines.begins(first) is answer


def test_without_rdkit_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rdkit", None)
    monkeypatch.setitem(sys.modules, "rdkit.Chem.rdDistGeom", None)
    (tmp_path / "a.smi").write_text("CCO\n")
    for source in ("CCO", tmp_path / "a.smi"):
        with pytest.raises(
            UsageError, match=r"RDKit is not installed: pip install 'neupol\[rdkit\]'"
        ):
            list(structures.read([source]))
    with pytest.raises(UsageError, match=r"^CCO: no such file; to take it for a SMILES: RDKit is"):
        list(structures.read(["CCO"]))


def test_labels_lose_folders_and_not_bonds() -> None:
    assert structures.short("a/b/c.xyz") == "c.xyz"
    assert structures.short("a/b.smi#3") == "b.smi#3"
    assert structures.short("F/C=C/F") == "F/C=C/F"
