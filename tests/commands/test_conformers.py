"""neupol predict --conformers: averages over conformers, against single predictions of these."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest

from neupol_cli.io import hdf5, said, structures
from neupol_cli.io.structure_formats.frame import Reading
from tests.test_threads import without_record
from tests.warm import neupol, python

KT = 8.617333262e-5 * 298.15  # eV
KCALMOL = 0.0433641  # eV
FLEXIBLE = "OCCO"


def record(*words: object) -> dict[str, Any]:
    """The JSON of one molecule."""
    done = neupol("predict", *words, "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return json.loads(line)


def conformers(word: str, count: int) -> list[ase.Atoms]:
    """As structures, in the order of their weights in JSON."""
    ((_, atoms),) = structures.read([word], reading=Reading(conformers=count))
    found = atoms.info[said.CONFORMERS]
    return [ase.Atoms(atoms.numbers, places) for places in found.positions]


def singly(word: str, count: int, folder: Path, *words: object) -> dict[str, np.ndarray]:
    """What is said of each conformer as a structure of its own, by property; half-widths under
    NAME h."""
    path = folder / "conformers.xyz"
    ase.io.write(path, conformers(word, count), format="extxyz")
    done = neupol("predict", path, "--json", *words)
    assert done.returncode == 0, done.stderr
    said = [json.loads(line)["properties"] for line in done.stdout.splitlines()]
    columns = {name: np.array([one[name]["value"] for one in said]) for name in said[0]}
    for name in said[0]:
        if "interval" in said[0][name]:  # whose lower end may be cut off at zero
            ends = np.array([one[name]["interval"][1] for one in said])
            columns[f"{name} h"] = ends - columns[name]
    return columns


def test_averages_are_those_of_single_predictions_by_the_models_energies(tmp_path: Path) -> None:
    said = record(FLEXIBLE, "--conformers", 10)
    single = singly(FLEXIBLE, 10, tmp_path)
    factors = np.exp(-(single["U0"] - single["U0"].min()) / KT)
    weights = factors / factors.sum()
    found = said["conformers"]
    assert (found["tried"], found["weighted_by"]) == (10, "U0")
    assert found["count"] == len(weights) >= 4
    # U0 of a structure in single precision: 0.2 meV, a hundredth of kT.
    np.testing.assert_allclose(found["weights"], weights, rtol=0, atol=0.02)
    weights = np.array(found["weights"])
    for name, answer in said["properties"].items():
        column, half = single[name], single[f"{name} h"]
        mean = weights @ column
        tolerance = 1e-6 * max(1, abs(mean))
        assert answer["value"] == pytest.approx(mean, abs=tolerance)
        spread = np.sqrt(weights @ (column - mean) ** 2)
        assert answer["conformer_spread"] == pytest.approx(spread, abs=1e-3 * spread + tolerance)
        of_weights = np.sqrt((((column - mean) * weights * single["U0 h"] / KT) ** 2).sum())
        wanted = np.hypot(weights @ half, min(of_weights, abs(column - mean).max()))
        own = answer["interval"][1] - answer["value"]
        assert own == pytest.approx(wanted, abs=1e-2 * wanted + tolerance)
        assert own > weights @ half - tolerance


def test_averages_of_a_small_model_agree_in_all_digits(tmp_path: Path, untrained) -> None:
    model = untrained(seed=5, hidden=16)
    said = record(FLEXIBLE, "--conformers", 8, "-m", model)
    single = singly(FLEXIBLE, 8, tmp_path, "-m", model)
    weights = np.array(said["conformers"]["weights"])
    factors = np.exp(-(single["U0"] - single["U0"].min()) / KT)
    np.testing.assert_allclose(weights, factors / factors.sum(), rtol=0, atol=1e-5)
    for name in ("U0", "mu"):
        wanted = weights @ single[name]
        assert said["properties"][name]["value"] == pytest.approx(wanted, abs=1e-6)


def test_without_an_energy_the_force_field_weighs() -> None:
    """MMFF94's butane: gauche 0.782 kcal/mol above trans, and there twice, as mirror images."""
    done = neupol("predict", "CCCC", "--conformers", 20, "--json", "-m", "points-homo")
    said = json.loads(done.stdout)
    gauche = np.exp(-0.7822 * KCALMOL / KT)
    wanted = np.array([1, gauche, gauche]) / (1 + 2 * gauche)
    assert said["conformers"]["weighted_by"] == "MMFF94"
    np.testing.assert_allclose(said["conformers"]["weights"], wanted, rtol=0, atol=2e-4)
    assert "weighted by MMFF94, as no model has an energy" in done.stderr


def test_vectors_average_as_lengths(tmp_path: Path, untrained) -> None:
    """<|mu|>, not |<mu>|: the conformers lie in space as they happen to."""
    model = untrained(
        "equivariant-transformer", targets=("energy", "dipole"), units=("eV", "D"), heads=2,
        outputs=("scalar", "vector"),
    )  # fmt: skip
    said = record(FLEXIBLE, "--conformers", 6, "-m", model)
    single = singly(FLEXIBLE, 6, tmp_path, "-m", model)
    lengths = np.linalg.norm(single["dipole"], axis=1)
    weights = np.array(said["conformers"]["weights"])
    assert said["conformers"]["weighted_by"] == "energy"
    assert set(said["properties"]) == {"energy", "mu"}
    assert said["properties"]["mu"]["unit"] == "D"
    assert said["properties"]["mu"]["value"] == pytest.approx(weights @ lengths, abs=1e-6)
    assert np.linalg.norm(weights @ single["dipole"]) < 0.99 * (weights @ lengths)


def test_a_committee_keeps_its_spread(untrained) -> None:
    models = [word for seed in (1, 2) for word in ("-m", untrained(seed=seed))]
    said = record(FLEXIBLE, "--conformers", 6, *models)
    alone = [record(FLEXIBLE, "--conformers", 1, *models[k : k + 2]) for k in (0, 2)]
    single = record(FLEXIBLE, "--conformers", 1, *models)
    values = [one["properties"]["mu"]["value"] for one in alone]
    assert single["properties"]["mu"]["spread"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    assert said["properties"]["mu"]["spread"] > 0
    assert said["properties"]["mu"]["conformer_spread"] > 0


@pytest.mark.parametrize("word", ["C", "O", "c1ccccc1", "[He]"])
def test_rigid_molecules_have_one(word: str) -> None:
    found = structures.read([word], reading=Reading(conformers=10), doubts_told=False)
    ((_, atoms),) = found
    made = atoms.info[said.CONFORMERS]
    assert made.positions.shape == (1, len(atoms), 3) and made.tried == 10
    np.testing.assert_array_equal(atoms.positions, made.positions[0])


def test_one_conformer_is_the_geometry_that_a_smiles_has_else() -> None:
    one, plain = record(FLEXIBLE, "--conformers", 1), record(FLEXIBLE)
    assert (one["conformers"]["count"], one["conformers"]["weights"]) == (1, [1.0])
    for name, answer in plain["properties"].items():
        said = one["properties"][name]
        assert said["conformer_spread"] == 0.0
        tolerance = 1e-6 * max(1, abs(answer["value"]))
        assert said["value"] == pytest.approx(answer["value"], abs=tolerance)
        assert said["interval"] == pytest.approx(answer["interval"], abs=2 * tolerance)


@pytest.mark.parametrize("word", ["CC(O)N", "CC(F)C(Cl)CO", "FC=CCO"])
def test_all_conformers_are_of_the_stereoisomer_that_is_named(word: str) -> None:
    from rdkit import Chem

    ((_, atoms),) = structures.read([word], reading=Reading(conformers=12), doubts_told=False)
    made = atoms.info[said.CONFORMERS]
    assert len(made.energies) > 2
    (doubt,) = atoms.info[said.DOUBTS]
    for places in made.positions:
        built = Chem.AddHs(Chem.MolFromSmiles(word))
        shape = Chem.Conformer(len(places))
        shape.SetPositions(np.ascontiguousarray(places))
        built.AddConformer(shape)
        Chem.AssignStereochemistryFrom3D(built)
        assert doubt.endswith(f": {Chem.MolToSmiles(Chem.RemoveHs(built))}")


LIST = f"{FLEXIBLE} glycol\nC1CC broken\nCCO ethanol\nCC(O)N open\n"
WORDS = ["predict", "-", "--on-error", "skip", "--conformers", "6"]


@pytest.mark.parametrize("ending", ["extxyz", "csv", "h5", "tsv"])
def test_every_output_has_averages_counts_and_spreads(tmp_path: Path, ending: str) -> None:
    done = neupol(*WORDS, "--json", input=LIST)
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["structure"] for one in said] == ["-#0", "-#2", "-#3"]
    assert any("stereoisomers" in doubt for doubt in said[2]["doubts"])
    out = tmp_path / f"o.{ending}"
    done = neupol(*WORDS, *([] if ending == "tsv" else ["-o", out]), input=LIST)
    assert done.returncode == 0, done.stderr
    if ending == "tsv":
        out.write_text(done.stdout)
    readers = {"extxyz": of_xyz, "csv": of_table, "tsv": of_table, "h5": of_dataset}
    rows = readers[ending](out)
    wanted = [
        (
            one["properties"]["mu"]["value"],
            one["properties"]["mu"]["conformer_spread"],
            one["conformers"]["count"],
        )
        for one in said
    ]
    np.testing.assert_allclose(rows, wanted, rtol=0, atol=1e-6)


def of_xyz(path: Path) -> list[tuple[float, ...]]:
    frames = ase.io.read(path, ":")
    assert [atoms.info["comment"] for atoms in frames] == ["glycol", "ethanol", "open"]
    assert {atoms.info["conformers_weighted_by"] for atoms in frames} == {"U0"}
    return [
        (a.info["mu_D"], a.info["mu_conformer_spread_D"], a.info["conformers_"]) for a in frames
    ]


def of_table(path: Path) -> list[tuple[float, ...]]:
    with path.open() as lines:
        rows = list(csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ","))
    assert {row["weighted by"] for row in rows} == {"U0"}
    names = ("mu [D]", "mu_conformer_spread [D]", "conformers")
    return [tuple(float(row[name]) for name in names) for row in rows]


def of_dataset(path: Path) -> list[tuple[float, ...]]:
    dataset = hdf5.read(path)
    assert dataset.source.endswith("averages over conformers weighted by U0 at 298.15 K")
    names = ("mu", "mu_conformer_spread", "conformers")
    return list(zip(*(dataset.targets[name].values for name in names), strict=True))


def test_the_geometry_that_is_written_has_the_lowest_energy(tmp_path: Path) -> None:
    single = singly("CCO", 6, tmp_path)["U0"]
    assert neupol("predict", "CCO", "--conformers", 6, "-o", tmp_path / "o.xyz").returncode == 0
    atoms = ase.io.read(tmp_path / "o.xyz", format="extxyz")
    wanted = conformers("CCO", 6)[int(single.argmin())]
    np.testing.assert_allclose(atoms.positions, wanted.positions, rtol=0, atol=1e-7)
    assert single.argmin() != 0  # of the force field's energies it is another one


def test_the_answer_is_the_same_on_any_threads() -> None:
    answers = []
    for threads in (1, 3):
        done = neupol(*WORDS, "--json", "--threads", threads, input=LIST * 8)
        assert done.returncode == 0
        answers.append([without_record(line) for line in done.stdout.splitlines()])
    assert answers[0] == answers[1] and len(answers[0]) == 24


def test_doubts_of_a_conformer_are_the_molecules() -> None:
    done = neupol("predict", "CC(O)N", "--conformers", 4, "--strict")
    assert done.returncode == 65 and "one of up to 2 stereoisomers" in done.stderr


SDF = (
    "m\n\n\n  1  0  0     0  0            999 V2000\n    0.0    0.0    0.0 He  0  0\nM  END\n$$$$\n"
)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["CCO", "--conformers", "0"], 2, "Invalid value for '--conformers'"),
        (["CCO", "--conformers", "-3"], 2, "Invalid value for '--conformers'"),
        (["CCO", "--conformers", "5", "--forces"], 2, "--forces belongs to one geometry"),
        (["CCO", "--conformers", "5", "--stress"], 2, "--stress belongs to one geometry"),
        (["a.sdf", "--conformers", "5"], 2, "a.sdf: has geometries of its own"),
        (["a.sdf", "--conformers", "5", "--on-error", "skip"], 2, "--conformers makes those of"),
        (["CCO.O", "--conformers", "5"], 65, "it is 2 molecules; conformers are made of one"),
        (["C1CC", "--conformers", "5"], 65, "as a SMILES it cannot be read by RDKit"),
    ],
)
def test_what_has_no_conformers_is_one_line(
    tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    (tmp_path / "a.sdf").write_text(SDF)
    done = neupol("predict", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr and len(done.stderr.splitlines()) == 1


def test_without_rdkit_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "rdkit").mkdir()
    (tmp_path / "rdkit/__init__.py").write_text("raise ImportError('not here')\n")
    code = f"import sys; sys.path.insert(0, '{tmp_path}'); from neupol_cli import app\n"
    done = python("-c", f"{code}sys.exit(app.run(['predict', 'CCO', '--conformers', '3']))")
    assert done.returncode == 2
    assert "RDKit is not installed: pip install 'neupol[rdkit]'" in done.stderr
