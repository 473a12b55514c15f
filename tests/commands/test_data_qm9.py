"""``neupol data qm9`` as a user runs it."""

from __future__ import annotations

import importlib.util
import tarfile
from pathlib import Path

import numpy as np
import pytest

from neupol_cli.datasets import gdb, qm9
from neupol_cli.errors import InputError
from neupol_cli.io import hdf5, units
from neupol_cli.targets import QM9
from tests.raw_data import Run, info, original_files

needs_qm9pack = pytest.mark.skipif(
    importlib.util.find_spec("qm9pack") is None, reason="qm9pack is an extra"
)


@pytest.fixture(scope="module")
def full_qm9(tmp_path_factory: pytest.TempPathFactory, neupol: Run) -> Path:
    """All of QM9, once."""
    path = tmp_path_factory.mktemp("qm9") / "qm9.h5"
    done = neupol("data", "qm9", "-o", path)
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
    assert list(found["targets"]) == list(QM9)
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
    done = neupol("data", "qm9", "-o", tmp_path / "a.h5", "--limit", 20, "--partition", "12,5,2")
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
    with pytest.raises(InputError) as caught:
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
        with pytest.raises(InputError, match="archive is not whole"):
            qm9.from_files(folder)
