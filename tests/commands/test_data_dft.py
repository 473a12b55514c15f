"""``neupol data dft``, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from neupol_cli.datasets import dft_job
from neupol_cli.datasets.solution import Killed, NotConverged, OutOfTime, Solution
from neupol_cli.errors import InputError
from neupol_cli.io import hdf5
from neupol_cli.io.volumetric.h5 import volume_of
from tests.warm import Process, neupol, wait_for

STRUCTURES = """2
the first
H 0 0 0
H 0 0 0.74
3
water
O 0 0 0.1173
H 0 0.7572 -0.4692
H 0 -0.7572 -0.4692
1
no basis for it
Og 0 0 0
"""


def test_dft_makes_densities_and_does_not_make_them_twice(tmp_path: Path) -> None:
    pytest.importorskip("pyscf")
    (tmp_path / "in.xyz").write_text(STRUCTURES)
    call = ["data", "dft", "in.xyz", "-o", "out.h5", "--spacing", "0.3", "--margin", "3"]
    call += ["--basis", "gth-szv"]
    first = neupol(*call, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "2 densities" in first.stderr and "in.xyz#2: PySCF:" in first.stderr
    dataset = hdf5.read(tmp_path / "out.h5")
    assert dataset.targets["electrons"].values.tolist() == [2.0, 8.0]
    assert dataset.references["electrons"] == {1: 1.0, 8: 6.0}
    assert volume_of(dataset, 1).electrons == pytest.approx(8.0, rel=0, abs=0.15)
    # hydrogen's are smooth: the grid's sum is exact but for the margin
    assert volume_of(dataset, 0).electrons == pytest.approx(2.0, rel=0, abs=0.01)
    kept = sorted((tmp_path / "out.h5.molecules").glob("*.h5"))
    assert len(kept) == 2
    stamps = [path.stat().st_mtime_ns for path in kept]
    (tmp_path / "in.xyz").write_text("".join(STRUCTURES.splitlines(keepends=True)[:9]))
    kept[0].write_bytes(b"damaged")  # is made again
    second = neupol(*call, cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert kept[1].exists() is False and stamps  # all are in the output now
    again = hdf5.read(tmp_path / "out.h5")
    np.testing.assert_allclose(again.targets["energy"].values, dataset.targets["energy"].values,
                               rtol=0, atol=1e-6)  # fmt: skip
    assert [volume_of(again, i).electrons for i in (0, 1)] == pytest.approx(
        [volume_of(dataset, i).electrons for i in (0, 1)], rel=0, abs=1e-6
    )


def test_dft_reads_charge_and_spin_and_refuses_crystals(tmp_path: Path) -> None:
    pytest.importorskip("pyscf")
    from neupol_cli.datasets import dft

    settings = dft.Settings(basis="gth-szv", spacing=0.4, margin=2.5)
    atom = Atoms("H", [[0.0, 0.0, 0.0]])
    made, charges = dft.solve(atom, settings, "H")
    assert made.spin is not None and charges == {1: 1.0}
    np.testing.assert_allclose(made.spin, made.values, rtol=0, atol=1e-10)
    ion = Atoms("H2", [[0, 0, 0], [0, 0, 0.9]], info={"charge": 1})
    assert dft.solve(ion, settings, "H2+")[0].notes["electrons"] == 1.0
    with pytest.raises(InputError, match="is periodic"):
        dft.solve(Atoms("H", cell=[3, 3, 3], pbc=True), settings, "H")


def test_spin_densities_of_open_and_closed_shells_go_into_one_file(tmp_path: Path) -> None:
    """A closed shell's is zero; merged, the file keeps both and the multiplicities."""
    pytest.importorskip("pyscf")
    nitrene = "2\nmultiplicity=3\nN 0 0 0\nH 0 0 1.04\n"
    odd = "2\nmultiplicity=2\nN 0 0 0\nH 0 0 1.04\n"
    (tmp_path / "in.xyz").write_text(nitrene + "2\n\nH 0 0 0\nH 0 0 0.74\n" + odd)
    call = ("data", "dft", "in.xyz", "-o", "out.h5", "--spin", "--spacing", "0.2", "--margin", "3")
    done = neupol(*call, "--basis", "gth-szv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "in.xyz#2: PySCF: RuntimeError: Electron number 6 and spin 1 are not" in done.stderr
    again = neupol("data", "density", "out.h5", "-o", "again.h5", "--spin", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    for name in ("out.h5", "again.h5"):
        dataset = hdf5.read(tmp_path / name)
        assert dataset.targets["multiplicity"].values.tolist() == [3, 1]
        first, second = (volume_of(dataset, k) for k in (0, 1))
        assert first.unpaired == pytest.approx(2.0, rel=0, abs=0.01)
        assert second.spin is not None and not second.spin.any()


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four displaced hydrogen molecules and a displaced water with densities, made by PySCF."""
    pytest.importorskip("pyscf")
    folder = tmp_path_factory.mktemp("labelled")
    (folder / "in.xyz").write_text("2\nhydrogen\nH 0 0 0\nH 0 0 0.74\n" * 4)
    done = neupol(
        "data", "dft", "in.xyz", "-o", "out.h5", "--rattle", "0.05", "--seed", "3",
        "--spacing", "0.3", "--margin", "3", "--basis", "gth-szv", "--partition", "2,1,1",
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "4 densities with energies and forces (train 2, valid 1, test 1)" in done.stderr
    return folder / "out.h5"


def test_dft_stores_energies_forces_dipoles_and_free_atoms(labelled: Path) -> None:
    from neupol_cli.datasets import dft

    dataset = hdf5.read(labelled)
    assert dataset.kind == "density"
    units = {name: (target.unit, target.per) for name, target in dataset.targets.items()}
    assert units == {
        "electrons": ("e", "structure"),
        "energy": ("eV", "structure"),
        "dipole": ("D", "structure"),
        "forces": ("eV/Angstrom", "atom"),
    }
    engine = dft.PySCF(dft.Settings(basis="gth-szv"))
    found = engine.solve(dataset.atoms(1), "hydrogen", False, np.inf)
    assert dataset.targets["energy"].values[1] == pytest.approx(found.energy, rel=0, abs=1e-8)
    stored = dataset.targets["forces"].values[2:4]
    np.testing.assert_allclose(stored, found.forces, rtol=0, atol=1e-8)
    free = dataset.references["energy"]
    assert free == {1: pytest.approx(engine.free_atom(1, np.inf), rel=0, abs=1e-8)}
    assert len({round(float(length), 6) for length in _bonds(dataset)}) == 4
    np.testing.assert_array_equal(volume_of(dataset, 1).notes["forces"], stored)


def _bonds(dataset: hdf5.Dataset) -> np.ndarray:
    pairs = dataset.positions.reshape(-1, 2, 3)
    return np.linalg.norm(pairs[:, 0] - pairs[:, 1], axis=1)


@pytest.mark.parametrize(
    "words",
    [
        ("egnn", "--target", "energy,forces", "--references", "atoms"),
        ("egnn",),  # energy and forces are what it learns of such a file
        ("charge3net", "--set", "mul=30", "--set", "lmax=1"),
    ],
)
def test_one_file_trains_properties_and_densities(
    labelled: Path, words: tuple[str, ...], tmp_path: Path
) -> None:
    network, *rest = words
    small = ["--set", "hidden=8"] if network == "egnn" else []
    done = neupol("fit", network, labelled, "-o", tmp_path / "run", "--steps", "2", *rest, *small)
    assert done.returncode == 0, done.stderr
    if network == "egnn":
        evaluated = neupol("evaluate", labelled, "-m", tmp_path / "run", "--split", "test")
        assert evaluated.returncode == 0, evaluated.stderr
        assert "energy" in evaluated.stdout and "forces" in evaluated.stdout


def test_merged_density_files_keep_forces(labelled: Path, tmp_path: Path) -> None:
    done = neupol("data", "density", labelled, labelled, "-o", tmp_path / "both.h5")
    assert done.returncode == 0, done.stderr
    both, one = (hdf5.read(path).targets["forces"] for path in (tmp_path / "both.h5", labelled))
    assert both.per == "atom"
    np.testing.assert_array_equal(both.values, np.tile(one.values, (2, 1)))


def test_labels_alone_are_a_file_of_structures(labelled: Path, tmp_path: Path) -> None:
    source = labelled.with_name("in.xyz")
    done = neupol(
        "data", "dft", source, "-o", tmp_path / "labels.h5", "--no-density", "--basis", "gth-szv",
        "--rattle", "0.05", "--seed", "3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    alone, full = hdf5.read(tmp_path / "labels.h5"), hdf5.read(labelled)
    assert alone.kind == "structures" and alone.density is None
    assert set(alone.targets) == {"energy", "forces", "dipole"}
    for name in alone.targets:
        np.testing.assert_allclose(
            alone.targets[name].values, full.targets[name].values, rtol=0, atol=1e-7
        )
    assert alone.references["energy"] == pytest.approx(full.references["energy"], abs=1e-9)
    assert not (tmp_path / "labels.h5.molecules").exists()


def test_dft_goes_on_after_a_kill(tmp_path: Path) -> None:
    """What was finished is taken as it was left: here, with an energy that is recognised."""
    pytest.importorskip("pyscf")
    lines = [f"2\n\nH 0 0 0\nH 0 0 {0.7 + 0.01 * k}\n" for k in range(40)]
    (tmp_path / "in.xyz").write_text("".join(lines))
    call = ["data", "dft", "in.xyz", "-o", "out.h5", "--no-density", "--basis", "gth-szv"]
    folder = tmp_path / "out.h5.molecules"
    process = Process("-m", "neupol_cli", *call, cwd=tmp_path)
    wait_for(lambda: list(folder.glob("*.json")), process)
    process.kill()
    process.communicate()
    assert not (tmp_path / "out.h5").exists()
    (kept, *_) = sorted(folder.glob("*.json"))
    record = json.loads(kept.read_text())
    kept.write_text(json.dumps(record | {"energy": -12.5}))
    done = neupol(*call, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    energies = hdf5.read(tmp_path / "out.h5").targets["energy"].values
    assert len(energies) == 40 and (energies == -12.5).sum() == 1
    assert not folder.exists()


class Failing:
    """An engine of which every structure but helium fails, each in its way."""

    source = "a stand-in"

    def __init__(self) -> None:
        self.method = {"program": "none"}
        self.ways = {
            1: NotConverged("cycles ran out"),
            3: OutOfTime("too long"),
            4: Killed("signal 9"),
            5: InputError("no basis"),
        }

    def solve(self, atoms: Atoms, label: str, density: bool, until: float) -> Solution:
        if int(atoms.numbers[0]) in self.ways:
            raise self.ways[int(atoms.numbers[0])]
        zeros = np.zeros((len(atoms), 3))
        return Solution(atoms, -1.0, zeros, zeros[0], 2.0, {2: 2.0}, None)

    def free_atom(self, number: int, until: float) -> float:
        raise NotConverged("the free atom of He: cycles ran out")


def test_failures_are_counted_by_their_reason_and_not_stored(tmp_path: Path) -> None:
    elements = ("H", "He", "H", "Li", "Be", "B", "He")
    frames = [(f"f#{k}", Atoms(symbol)) for k, symbol in enumerate(elements)]
    heard: list[tuple[str, str | None]] = []
    choices = dft_job.Choices(densities=False)
    made = dft_job.collect(
        frames, tmp_path / "a.h5", Failing(), choices, lambda *told: heard.append(told)
    )
    told = dft_job.told(made.failures)
    assert told == "2 not converged, 1 over the time limit, 1 killed, 1 refused"
    assert made.report.failed[0] == "f#0: cycles ran out" and len(made.report.failed) == 5
    assert [trouble is None for _, trouble in heard] == [symbol == "He" for symbol in elements]
    dataset = hdf5.read(tmp_path / "a.h5")
    assert dataset.numbers.tolist() == [2, 2] and dataset.references == {"energy": {}}
    assert "no reference energy of He: the free atom" in made.report.odd[0]
    without = dft_job.Choices(densities=False, references=False)
    assert not dft_job.collect(frames, tmp_path / "a.h5", Failing(), without).report.odd
    with pytest.raises(OutOfTime):
        strict = dft_job.Choices(densities=False, skip=False)
        dft_job.collect(frames[3:], tmp_path / "b.h5", Failing(), strict)
    with pytest.raises(InputError, match=r"b.h5: none could be made: 1 not converged"):
        dft_job.collect(frames[:1], tmp_path / "b.h5", Failing(), choices)
    assert not (tmp_path / "b.h5").exists()


def test_dft_says_that_an_scf_failed(tmp_path: Path) -> None:
    pytest.importorskip("pyscf")
    (tmp_path / "in.xyz").write_text(STRUCTURES)
    done = neupol(
        "data", "dft", "in.xyz", "-o", "out.h5", "--no-density", "--basis", "gth-szv",
        "--limit-minutes", "0", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 65
    assert "in.xyz#0: took longer than the time that was left (skipped)" in done.stderr
    assert "none could be made: 2 over the time limit, 1 refused" in done.stderr
    assert not (tmp_path / "out.h5").exists()


def test_dft_begins_with_predicted_densities(tmp_path: Path) -> None:
    pytest.importorskip("pyscf")
    water = STRUCTURES.splitlines(keepends=True)[4:9]
    (tmp_path / "in.xyz").write_text("".join([*water, "1\nhelium\nHe 0 0 0\n"]))
    call = ["data", "dft", "in.xyz", "--no-density", "--start"]
    begun = neupol(*call, "density", "-o", "a.h5", cwd=tmp_path)
    assert begun.returncode == 0, begun.stderr
    assert "in.xyz#1: --start density: He: " in begun.stderr and "1 refused" in begun.stderr
    plain = neupol(*call, "minao", "-o", "b.h5", cwd=tmp_path)
    assert plain.returncode == 0, plain.stderr
    energies = [hdf5.read(tmp_path / name).targets["energy"].values[0] for name in ("a.h5", "b.h5")]
    assert energies[0] == pytest.approx(energies[1], rel=0, abs=1e-7)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--kspacing", "0.3"), "--kspacing is not for --engine pyscf"),
        (("--engine", "cp2k", "--xc", "pbe0"), "--xc is not for --engine cp2k"),
        (("--engine", "cp2k", "--start", "density"), "--start is not for --engine cp2k"),
        (("--copies", "2"), "add --rattle SIGMA"),
        (("--no-density", "--spin"), "--spin is for densities"),
    ],
)
def test_options_that_nobody_would_read_are_refused(
    words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = neupol("data", "dft", "H2.xyz", "-o", tmp_path / "a.h5", *words)
    assert done.returncode == 2 and message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_cp2k_that_is_missing_is_one_line_and_2(tmp_path: Path) -> None:
    (tmp_path / "in.xyz").write_text(STRUCTURES)
    call = ["data", "dft", "in.xyz", "-o", "out.h5", "--engine", "cp2k"]
    done = neupol(*call, cwd=tmp_path, env={"PATH": str(tmp_path)})
    assert done.returncode == 2 and "CP2K is not installed" in done.stderr
    assert len(done.stderr.splitlines()) == 1
