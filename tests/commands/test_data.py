"""``neupol data qm9``, ``md17``, ``xyz`` and ``info``, as a user runs them."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write as ase_write

from neupol_cli import hdf5, units
from neupol_cli.datasets import gdb, md17, qm9, splits, xyz
from neupol_cli.errors import BadInput, Usage

Run = Callable[..., "subprocess.CompletedProcess[str]"]

needs_qm9pack = pytest.mark.skipif(
    importlib.util.find_spec("qm9pack") is None, reason="qm9pack is an extra"
)
HEAD = "gdb {}\t157.7\t157.7\t157.7\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749"
TAIL = "\t-40.47893\t-40.476062\t-40.475117\t-40.498597\t6.469\t"
METHANE = """C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689
H\t 0.002150416\t-0.0060313176\t 1.97612*^-6\t 0.133921
H\t 1.0117308433\t 1.4637511618\t 0.0002765748\t 0.133922
H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923
H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923
1341.307\t1341.3284
C\tC
InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4
"""
ATOMREF = "Ele- ZPVE U\nment Hartree\n=====\n" + "".join(
    f" {symbol} 0.0 {' '.join(str(qm9.ATOMS[name][k]) for name in ('U0', 'U', 'H', 'G', 'Cv'))}\n"
    for k, symbol in enumerate("HCNOF")
)


def gdb_text(index: int) -> str:
    return f"5\n{HEAD.format(index)}{TAIL}\n{METHANE}"


def original_files(folder: Path, count: int = 12) -> Path:
    """A small copy of what QM9's authors published, number 3 marked as uncharacterised."""
    folder.mkdir()
    for index in range(1, count + 1):
        (folder / f"dsgdb9nsd_{index:06d}.xyz").write_text(gdb_text(index))
    (folder / "uncharacterized.txt").write_text("heading\n" * 9 + "  3  CCC  CCC  0.1\n====\n")
    (folder / "atomref.txt").write_text(ATOMREF)
    return folder


def info(neupol: Run, path: Path) -> dict[str, Any]:
    done = neupol("data", "info", path, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def full_qm9(tmp_path_factory: pytest.TempPathFactory, neupol: Run) -> Path:
    """All of QM9, once."""
    path = tmp_path_factory.mktemp("qm9") / "qm9.h5"
    done = neupol("data", "qm9", "-o", path, timeout=180)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return path


@needs_qm9pack
def test_all_of_qm9_agrees_with_the_published_statistics(neupol: Run, full_qm9: Path) -> None:
    assert full_qm9.stat().st_size < 60e6
    found = info(neupol, full_qm9)
    assert (found["structures"], found["atoms"]) == (130_831, 2_359_210)
    assert list(found["elements"]) == ["H", "C", "N", "O", "F"]
    assert found["splits"] == {"paper": {"train": 100_000, "valid": 17_748, "test": 13_083}}
    # Mean and standard deviation as the literature has them (Ramakrishnan 2014, figures of the
    # set without the 3,054; mu 2.67 D, alpha 75.3 bohr^3, gap 0.2520 Hartree, zpve 0.1491, ...).
    hartree = units.HARTREE
    expected = {
        "mu": ("D", 2.673, 1.503),
        "alpha": ("bohr^3", 75.28, 8.17),
        "homo": ("eV", -0.2402 * hartree, 0.02197 * hartree),
        "lumo": ("eV", 0.01184 * hartree, 0.04685 * hartree),
        "gap": ("eV", 0.2520 * hartree, 0.04719 * hartree),
        "r2": ("bohr^2", 1189.4, 280.5),
        "zpve": ("eV", 0.14909 * hartree, 0.03314 * hartree),
        "U0": ("eV", -410.82 * hartree, 39.895 * hartree),
        "Cv": ("cal/mol/K", 31.620, 4.068),
    }
    assert list(found["targets"]) == list(units.QM9_UNITS)
    for name, (unit, mean, std) in expected.items():
        target = found["targets"][name]
        assert target["unit"] == unit
        assert target["mean"] == pytest.approx(mean, rel=1e-3), name
        assert target["std"] == pytest.approx(std, rel=2e-3), name
    assert found["references"]["U0"]["atoms"]["C"] == pytest.approx(-37.846772 * hartree, abs=1e-9)


@needs_qm9pack
def test_the_usual_split_is_that_of_published_results(full_qm9: Path) -> None:
    found = hdf5.read(full_qm9)
    order = np.random.RandomState(0).permutation(130_831)
    split = found.splits["paper"]
    np.testing.assert_array_equal(split["train"], order[:100_000])
    np.testing.assert_array_equal(split["valid"], order[100_000:117_748])
    np.testing.assert_array_equal(split["test"], order[117_748:])
    assert found.ids is not None and (found.ids[0], found.ids[-1]) == (1, 133_885)


@needs_qm9pack
def test_first_molecules_are_those_of_the_source(neupol: Run, tmp_path: Path) -> None:
    done = neupol("data", "qm9", "-o", tmp_path / "a.h5", "--limit", 20, "--split", "12,5,2")
    assert done.returncode == 0, done.stderr
    found = hdf5.read(tmp_path / "a.h5")
    assert found.size == 20
    sizes = {name: len(part) for name, part in found.splits["default"].items()}
    assert sizes == {"train": 12, "valid": 5, "test": 2}
    assert found.numbers[:5].tolist() == [6, 1, 1, 1, 1]
    np.testing.assert_allclose(
        found.positions[0], [-0.0126981359, 1.0858041578, 0.0080009958], rtol=0, atol=1e-6
    )
    assert found.targets["U0"].values[0] == pytest.approx(-40.47893 * units.HARTREE, abs=1e-9)
    assert found.targets["homo"].values[0] == pytest.approx(-0.3877 * units.HARTREE, abs=1e-9)


def test_original_files_and_archive_give_the_same(neupol: Run, tmp_path: Path) -> None:
    folder = original_files(tmp_path / "files")
    other = tmp_path / "archive"
    other.mkdir()
    for name in ("uncharacterized.txt", "atomref.txt"):
        (other / name).write_text((folder / name).read_text())
    with tarfile.open(other / gdb.ARCHIVE, "w:bz2") as archive:
        for path in sorted(folder.glob(gdb.PATTERN)):
            archive.add(path, path.name)
    for source in (folder, other):
        done = neupol("data", "qm9", "-o", tmp_path / f"{source.name}.h5", "--source", source)
        assert (done.returncode, done.stderr) == (0, "")
    first, second = (hdf5.read(tmp_path / f"{name}.h5") for name in ("files", "archive"))
    assert first.fingerprint == second.fingerprint
    assert first.ids is not None and first.ids.tolist() == [1, 2, *range(4, 13)]
    np.testing.assert_allclose(first.positions[1, 2], 1.97612e-6, rtol=0, atol=1e-12)
    assert first.references == qm9.references()
    assert first.targets["Cv"].values[0] == 6.469


@pytest.mark.parametrize(
    ("name", "old", "new", "reason"),
    [
        ("dsgdb9nsd_000002.xyz", "1.97612*^-6", "x", "2.xyz:4: 'x' is not a number"),
        ("dsgdb9nsd_000002.xyz", "5\n", "6\n", "2.xyz:10: declares 6 atoms in 10 lines"),
        ("dsgdb9nsd_000002.xyz", "C\t", "Si\t", "2.xyz:3: element 'Si' does not occur"),
        ("dsgdb9nsd_000002.xyz", "gdb 2", "gdb", "2.xyz:2: expected 'gdb'"),
        ("dsgdb9nsd_000002.xyz", "-40.47893", "nan", "2.xyz:2: 'nan' is not finite"),
        ("atomref.txt", " C ", " Q ", "expected six numbers"),
        ("uncharacterized.txt", None, "", "names the 3,054"),
    ],
)
def test_damaged_original_files(
    tmp_path: Path, name: str, old: str | None, new: str, reason: str
) -> None:
    folder = original_files(tmp_path / "files", 3)
    if old is None:
        (folder / name).unlink()
    else:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))
    with pytest.raises(BadInput) as caught:
        qm9.from_files(folder)
    assert reason in str(caught.value)


def test_archive_that_is_cut(tmp_path: Path) -> None:
    folder = original_files(tmp_path / "files", 3)
    with tarfile.open(folder / gdb.ARCHIVE, "w:bz2") as archive:
        for path in sorted(folder.glob(gdb.PATTERN)):
            archive.add(path, path.name)
    content = (folder / gdb.ARCHIVE).read_bytes()
    for end in (0, 10, len(content) // 2, len(content) - 20):
        (folder / gdb.ARCHIVE).write_bytes(content[:end])
        with pytest.raises(BadInput, match="archive is not whole"):
            qm9.from_files(folder)


def npz(path: Path, frames: int = 40, **changes: Any) -> Path:
    """Frames of water in the revised format."""
    noise = np.random.RandomState(frames)
    water = molecule("H2O")
    arrays = {
        "nuclear_charges": water.numbers.astype(np.uint8),
        "coords": water.positions + noise.normal(scale=0.05, size=(frames, 3, 3)),
        "energies": noise.normal(size=frames) - 47_000.0,
        "forces": noise.normal(size=(frames, 3, 3)),
        "old_energies": noise.normal(size=frames),
        "old_forces": noise.normal(size=(frames, 3, 3)),
    }
    arrays.update(changes)
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def test_revised_md17_with_its_test_file(neupol: Run, tmp_path: Path) -> None:
    train, test = npz(tmp_path / "train.npz", 40), npz(tmp_path / "test.npz", 10)
    done = neupol("data", "md17", train, "--test", test, "-o", tmp_path / "w.h5")
    assert (done.returncode, done.stderr) == (0, "")
    found = hdf5.read(tmp_path / "w.h5")
    split = found.splits["default"]
    assert [len(split[part]) for part in ("train", "valid", "test")] == [38, 2, 10]
    assert split["test"].tolist() == list(range(40, 50))
    kcal = 0.0433641  # eV
    with np.load(train) as stored:
        energy, forces = found.targets["energy"], found.targets["forces"]
        np.testing.assert_allclose(energy.values[:40], stored["energies"] * kcal, rtol=1e-6)
        np.testing.assert_allclose(
            forces.values[:120], stored["forces"].reshape(-1, 3) * kcal, rtol=1e-6
        )
        np.testing.assert_array_equal(found.positions[:120], stored["coords"].reshape(-1, 3))
    assert (energy.unit, forces.unit, forces.per) == ("eV", "eV/Angstrom", "atom")


def test_long_trajectories_have_the_usual_split(tmp_path: Path) -> None:
    found = md17.read([npz(tmp_path / "a.npz", 1100)])
    sizes = [len(found.splits["default"][part]) for part in ("train", "valid", "test")]
    assert sizes == [950, 50, 100]


def test_original_md17(tmp_path: Path) -> None:
    revised = md17.load(npz(tmp_path / "a.npz"))
    with np.load(tmp_path / "a.npz") as stored:
        renamed = {"R": stored["coords"], "z": stored["nuclear_charges"], "F": stored["forces"]}
        np.savez(tmp_path / "b.npz", E=stored["energies"][:, None], **renamed)
        np.savez(tmp_path / "c.npz", E=stored["energies"], e_unit=np.array("eV"), **renamed)
        old = md17.load(tmp_path / "a.npz", old=True)
        np.testing.assert_allclose(
            old.energy, units.convert(stored["old_energies"], "kcal/mol", "eV"), rtol=1e-14
        )
        np.testing.assert_array_equal(md17.load(tmp_path / "c.npz").energy, stored["energies"])
    original = md17.load(tmp_path / "b.npz")
    for name in ("numbers", "positions", "energy", "forces"):
        np.testing.assert_array_equal(getattr(original, name), getattr(revised, name))


def _absurd_npz(path: Path) -> None:
    """An archive whose array declares 10^12 numbers and holds none."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
    )
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        for name in ("R", "z", "E", "F"):
            archive.writestr(f"{name}.npy", stream.getvalue())


def test_damaged_npz(tmp_path: Path) -> None:
    good = npz(tmp_path / "a.npz").read_bytes()
    for end in range(0, len(good), 97):
        (tmp_path / "b.npz").write_bytes(good[:end])
        with pytest.raises(BadInput):
            md17.load(tmp_path / "b.npz")
    draw, expected = random.Random(0), md17.load(tmp_path / "a.npz")
    for _ in range(200):
        damaged = bytearray(good)
        damaged[draw.randrange(len(good))] ^= 1 << draw.randrange(8)
        (tmp_path / "b.npz").write_bytes(damaged)
        with suppress(BadInput):
            np.testing.assert_array_equal(md17.load(tmp_path / "b.npz").forces, expected.forces)
    _absurd_npz(tmp_path / "b.npz")
    with pytest.raises(BadInput, match=r"declares \(1000000000000,\)"):
        md17.load(tmp_path / "b.npz")
    pickled = np.array([{}], dtype=object)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"forces": None}, "has no forces; it has nuclear_charges, coords, energies"),
        ({"energies": np.full(40, np.nan)}, "energy are not all finite"),
        ({"energies": np.zeros(39)}, "39 energies and 3 atoms ask for"),
        ({"energies": pickled}, "not a whole npz file"),
        ({"forces": np.zeros((40, 3, 2))}, "forces have shape"),
    ]
    for changes, reason in cases:
        with pytest.raises(BadInput, match=reason):
            md17.load(npz(tmp_path / "c.npz", 40, **changes))
    with pytest.raises(BadInput, match="no such file"):
        md17.load(tmp_path / "d.npz")


def labelled(path: Path, count: int = 20, energy: str = "E_dft", forces: str = "F_dft") -> Path:
    frames = []
    for k in range(count):
        atoms = molecule(("H2O", "CH4", "CO")[k % 3])
        atoms.info |= {energy: float(-k), "dipole": np.array([k, 0.0, 1.0])}
        atoms.arrays[forces] = np.full((len(atoms), 3), float(k))
        frames.append(atoms)
    ase_write(path, frames, format="extxyz")
    return path


def test_labels_of_extxyz(neupol: Run, tmp_path: Path) -> None:
    frames = labelled(tmp_path / "a.xyz")
    done = neupol(
        "data", "xyz", frames, "-o", tmp_path / "a.h5", "--energy-key", "E_dft", "--energy-unit",
        "kcal/mol", "--forces-key", "F_dft", "--target", "dipole=e*Angstrom", "--seed", "3",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found = hdf5.read(tmp_path / "a.h5")
    assert {name: (t.unit, t.per) for name, t in found.targets.items()} == {
        "dipole": ("D", "structure"),
        "energy": ("eV", "structure"),
        "forces": ("eV/Angstrom", "atom"),
    }
    energies = -np.arange(20) * units.KCALMOL
    np.testing.assert_allclose(found.targets["energy"].values, energies, rtol=1e-14)
    assert found.targets["forces"].values[-1].tolist() == [19.0, 19.0, 19.0]
    assert found.targets["dipole"].values.shape == (20, 3)
    assert {name: len(part) for name, part in found.splits["default"].items()} == {
        "train": 16, "valid": 2, "test": 2
    }  # fmt: skip


def test_usual_labels_are_found_and_absent_ones_named(neupol: Run, tmp_path: Path) -> None:
    labelled(tmp_path / "a.xyz", energy="energy", forces="forces")
    done = neupol("data", "xyz", tmp_path / "a.xyz", "-o", tmp_path / "a.h5")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(hdf5.read(tmp_path / "a.h5").targets) == ["energy", "forces"]
    labelled(tmp_path / "b.xyz")
    for extra in ((), ("--energy-key", "TotEnergy")):
        done = neupol("data", "xyz", tmp_path / "b.xyz", "-o", tmp_path / "b.h5", *extra)
        assert done.returncode == 65
        assert "E_dft, F_dft, dipole" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "b.h5").exists()
    done = neupol("data", "xyz", tmp_path / "b.xyz", "-o", tmp_path / "b.h5", "--target", "dipole")
    assert done.returncode == 2 and "KEY=UNIT" in done.stderr


def test_results_of_ase_are_labels(tmp_path: Path) -> None:
    atoms = molecule("CH4")  # five atoms, and a vector of five a structure beside
    atoms.calc = SinglePointCalculator(atoms, energy=-2.0, forces=np.ones((5, 3)))
    atoms.info["five"] = np.arange(5.0)
    ase_write(tmp_path / "a.traj", [atoms] * 3)
    found = xyz.read([tmp_path / "a.traj"], {})
    assert found.targets["energy"].values.tolist() == [-2.0] * 3
    assert found.targets["forces"].values.shape == (15, 3)
    kinds = {name: per for name, (_, per) in xyz._labels(atoms).items()}
    assert kinds == {"energy": "structure", "forces": "atom", "five": "structure"}


def test_bad_frames_stop_or_are_skipped(neupol: Run, tmp_path: Path) -> None:
    text = labelled(tmp_path / "a.xyz", energy="energy", forces="forces").read_text()
    (tmp_path / "a.xyz").write_text(text.replace("0.00000000", "nan", 1))
    arguments = ("data", "xyz", "-", "-o", tmp_path / "a.h5")
    done = neupol(*arguments, input=(tmp_path / "a.xyz").read_text())
    assert done.returncode == 65 and done.stderr.startswith("neupol: -:3: 'nan' is not finite")
    done = neupol(*arguments, "--on-error", "skip", input=(tmp_path / "a.xyz").read_text())
    assert done.returncode == 0 and "(skipped)" in done.stderr
    assert info(neupol, tmp_path / "a.h5")["structures"] == 19


def test_info_as_a_table_and_of_damaged_files(neupol: Run, tmp_path: Path) -> None:
    original_files(tmp_path / "files")
    path = tmp_path / "a.h5"
    neupol("data", "qm9", "-o", path, "--source", tmp_path / "files")
    done = neupol("data", "info", path)
    assert done.returncode == 0
    for word in ("structures", "11", "QM9", "Cv", "cal/mol/K"):
        assert word in done.stdout
    with h5py.File(path) as file:
        begin = file["positions"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[begin] ^= 1
    path.write_bytes(content)
    done = neupol("data", "info", path)
    assert done.returncode == 65 and len(done.stderr.splitlines()) == 1
    assert neupol("data", "info", tmp_path / "no.h5").returncode == 65


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("qm9", "-o", "no/folder/a.h5"), 2, "does not exist; make it first"),
        (("qm9", "-o", "a.h5", "--split", "1,2,x"), 2, "TRAIN,VALID"),
        (("qm9", "-o", "a.h5", "--source", "nowhere"), 65, "uncharacterized.txt"),
        (("qm9",), 2, "output"),
        (("md17", "no.npz", "-o", "a.h5"), 65, "no such file"),
        (("xyz", "no.xyz", "-o", "a.h5"), 65, "no such file"),
        (("info", "/dev/null"), 65, "no such file"),
    ],
)
def test_wrong_command_lines(
    neupol: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = neupol("data", *arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert os.listdir(tmp_path) == []


def test_the_second_writer_is_sent_away_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "neupol_cli", "data", "xyz", "-", "-o", tmp_path / "a.h5"]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)  # waits for its input
    try:
        lock = tmp_path / "a.h5.lock"
        while not (lock.exists() and lock.read_text()):
            assert first.poll() is None
            time.sleep(0.02)
        done = subprocess.run(command, capture_output=True, text=True, input="", check=False)
        assert done.returncode == 75
        assert f"process {first.pid}" in done.stderr
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert os.listdir(tmp_path) == ["a.h5.lock"]
    labelled(tmp_path / "a.xyz", energy="energy", forces="forces")
    text = (tmp_path / "a.xyz").read_text()
    done = subprocess.run(command, capture_output=True, text=True, input=text, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "a.xyz"]


def test_terminated_writer_cleans_up(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "neupol_cli", "data", "xyz", "-", "-o", tmp_path / "a.h5"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
    while not (tmp_path / "a.h5.lock").exists():
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert os.listdir(tmp_path) == []


def test_a_disk_that_refuses_ends_with_74_and_the_old_file(tmp_path: Path) -> None:
    labelled(tmp_path / "a.xyz", energy="energy", forces="forces")
    (tmp_path / "a.h5").write_text("old")
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000));"
        "from neupol_cli.app import main; main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "data", "xyz", tmp_path / "a.xyz", "-o", tmp_path / "a.h5"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 74, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "a.h5").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "a.xyz"]


def test_splits_are_seeded_and_disjoint() -> None:
    first, again = (splits.shuffled(100, (70, 20), 5) for _ in range(2))
    for part, values in first.items():
        np.testing.assert_array_equal(values, again[part])
    assert sorted(np.concatenate(list(first.values()))) == list(range(100))
    assert [len(first[part]) for part in ("train", "valid", "test")] == [70, 20, 10]
    assert (splits.shuffled(100, (70, 20), 6)["train"] != first["train"]).any()
    with pytest.raises(Usage, match="cannot split 100 structures as 90,20"):
        splits.shuffled(100, (90, 20), 0)
    for own, size, expected in [
        (20, 20, [16, 2, 2]), (5000, 5000, [4000, 500, 500]), (1000, 2000, [950, 50, 1000]),
        (5, 5, [3, 1, 1]), (2, 2, [1, 1, 0]), (1, 1, [1, 0, 0]), (1, 2, [1, 0, 1]),
    ]:  # fmt: skip
        made = splits.with_test(own, size, None, 0)
        assert [len(made[part]) for part in ("train", "valid", "test")] == expected
