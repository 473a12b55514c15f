"""The dataset file: what is written is read, what was changed is refused."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from neupol_cli.errors import InputError, StorageError
from neupol_cli.io import hdf5
from neupol_cli.io.charges import state
from neupol_cli.io.density_writer import DensityWriter


def dataset() -> hdf5.Dataset:
    """Two molecules and a crystal with labels of every kind."""
    frames = [molecule("H2O"), molecule("CH4"), bulk("NaCl", "rocksalt", a=5.6)]
    values = np.random.RandomState(0)
    made = hdf5.from_atoms(
        frames,
        "structures",
        "three structures",
        ids=[7, 8, 9],
        targets={
            "mu": hdf5.Target(values.normal(size=3), "D"),
            "energy": hdf5.Target(values.normal(size=3), "eV"),
            "forces": hdf5.Target(values.normal(size=(10, 3)), "eV/Angstrom", "atom"),
        },
        splits={"default": {"train": np.array([2, 0]), "valid": np.array([1])}},
    )
    return replace(made, references={"energy": {1: -13.6, 8: -2041.0}})


def density(path: Path, spin: bool = False) -> list[np.ndarray]:
    """A file of three grids of different shapes; gives their values."""
    random_ = np.random.RandomState(1)
    tail = (2,) if spin else ()
    grids = [random_.rand(3 + k, 4, 5, *tail).astype(np.float32) for k in range(3)]
    with DensityWriter(path, "test", spin=spin) as writer:
        for k, grid in enumerate(grids):
            writer.add(molecule("H2O"), grid, np.full(3, k), np.diag([0.1, 0.2, 0.3]))
        writer.split("default", {"train": np.array([0, 2]), "test": np.array([1])})
    return grids


def test_round_trip(tmp_path: Path) -> None:
    first = dataset()
    hdf5.write(tmp_path / "a.h5", first)
    second = hdf5.read(tmp_path / "a.h5")
    assert (second.size, second.kind, second.source) == (3, "structures", "three structures")
    for name in ("numbers", "positions", "offsets", "cell", "pbc", "ids"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
        assert getattr(second, name).dtype == getattr(first, name).dtype
    assert list(second.targets) == ["mu", "energy", "forces"]  # the order of the source
    for name, target in first.targets.items():
        np.testing.assert_array_equal(target.values, second.targets[name].values)
        assert (target.unit, target.per) == (second.targets[name].unit, second.targets[name].per)
    assert second.references == first.references
    np.testing.assert_array_equal(second.splits["default"]["train"], [2, 0])
    assert second.fingerprint == first.fingerprint


def test_fingerprint_sees_every_change() -> None:
    first = dataset()
    moved = replace(first, positions=first.positions + 1e-9)
    other = {**first.targets, "mu": replace(first.targets["mu"], unit="e*Angstrom")}
    changes = [moved, replace(first, targets=other), replace(first, references={}),
               replace(first, splits={}), replace(first, ids=None)]  # fmt: skip
    prints = {change.fingerprint for change in changes} | {first.fingerprint}
    assert len(prints) == 6
    assert dataset().fingerprint == first.fingerprint


def test_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        hdf5.write(tmp_path / name, dataset())
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_single_precision_keeps_a_millionth_of_an_angstrom(tmp_path: Path) -> None:
    first = dataset()
    hdf5.write(tmp_path / "a.h5", first, single=True)
    second = hdf5.read(tmp_path / "a.h5")
    assert second.positions.dtype == np.float64
    np.testing.assert_allclose(first.positions, second.positions, rtol=0, atol=1e-6)
    far = replace(first, positions=first.positions + 1000.3)
    with pytest.raises(InputError, match="lose"):
        hdf5.write(tmp_path / "b.h5", far, single=True)
    assert os.listdir(tmp_path) == ["a.h5"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "poetry"}, "unknown kind"),
        ({"offsets": np.array([0, 3, 8])}, "does not divide 10 atoms"),
        ({"offsets": np.array([0, 3, 3, 10])}, "does not divide"),
        ({"numbers": np.zeros(10, np.int64)}, "atomic numbers that no element has"),
        ({"positions": np.full((10, 3), np.nan)}, "finite positions"),
        ({"pbc": None}, "come together"),
        ({"targets": {"a": hdf5.Target(np.zeros(4), "eV")}, "references": {}}, "'a' has shape"),
        ({"targets": {"a": hdf5.Target(np.full(3, np.inf), "eV")}, "references": {}}, "not finite"),
        ({"references": {"other": {1: 1.0}}}, "'other', which is no target"),
        ({"splits": {"s": {"train": np.array([3])}}}, "beyond the 3"),
        ({"splits": {"s": {"train": np.array([1]), "test": np.array([1])}}}, "twice"),
    ],
)
def test_arrays_that_do_not_fit_are_not_written(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        hdf5.write(tmp_path / "a.h5", replace(dataset(), **change))  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("spin", [False, True])
def test_densities_one_at_a_time(tmp_path: Path, spin: bool) -> None:
    grids = density(tmp_path / "d.h5", spin)
    found = hdf5.read(tmp_path / "d.h5")
    assert found.kind == "density" and found.density is not None
    assert found.density.spin == spin
    for k, grid in enumerate(grids):
        values = found.density.values(k)
        np.testing.assert_array_equal(values, grid.reshape(-1, *grid.shape[3:]))
    # Row 1 * 5 + 2 of (x, y, z) = (0, 1, 2): the last axis runs fastest.
    np.testing.assert_allclose(
        found.density.points(1, np.array([0, 7])), [[1, 1, 1], [1, 1.2, 1.6]], rtol=0, atol=1e-15
    )
    found.density.close()


def test_density_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    writer = DensityWriter(tmp_path / "d.h5")
    with pytest.raises(InputError, match="not finite"), writer:
        writer.add(molecule("H2O"), np.full((2, 2, 2), np.nan), np.zeros(3), np.eye(3))
    with pytest.raises(InputError, match="no density"), DensityWriter(tmp_path / "d.h5"):
        pass
    assert os.listdir(tmp_path) == []


def _state(path: Path) -> object:
    """Everything a reader can learn from a file."""
    found = hdf5.read(path)
    grids: list[bytes] = []
    if found.density is not None:
        with closing(found.density):  # HDF5 would answer from an open file that has changed since
            grids = [found.density.values(k).tobytes() for k in range(found.size)]
            grids += [found.density.step.tobytes(), found.density.origin.tobytes()]
    return found.fingerprint, found.source, found.kind, grids


def _write_dataset(path: Path) -> None:
    hdf5.write(path, dataset())


def _write_density(path: Path) -> None:
    density(path)


@pytest.mark.parametrize("make", [_write_dataset, _write_density])
def test_a_flipped_bit_is_refused_or_harmless(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a.h5")
    expected, content = _state(tmp_path / "a.h5"), (tmp_path / "a.h5").read_bytes()
    draw, refused = random.Random(0), 0
    for _ in range(100):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (tmp_path / "b.h5").write_bytes(damaged)
        try:
            assert _state(tmp_path / "b.h5") == expected
        except InputError:
            refused += 1
    assert refused > 30  # the rest fell into space that nobody reads


def test_a_flipped_bit_in_each_array_is_named(tmp_path: Path) -> None:
    hdf5.write(tmp_path / "a.h5", dataset())
    content = (tmp_path / "a.h5").read_bytes()
    for name in ("/positions", "/targets/forces", "/offsets", "/references/energy"):
        with h5py.File(tmp_path / "a.h5") as file:
            begin = file[name].id.get_offset()
        damaged = bytearray(content)
        damaged[begin + 1] ^= 4
        (tmp_path / "b.h5").write_bytes(damaged)
        with pytest.raises(InputError, match=f"{name} is damaged") as caught:
            hdf5.read(tmp_path / "b.h5")
        assert caught.value.code == 65


def test_no_truncated_file_is_read(tmp_path: Path) -> None:
    hdf5.write(tmp_path / "a.h5", dataset())
    content = (tmp_path / "a.h5").read_bytes()
    for end in range(0, len(content), 211):
        (tmp_path / "b.h5").write_bytes(content[:end])
        with pytest.raises(InputError):
            hdf5.read(tmp_path / "b.h5")


def _external(file: h5py.File) -> None:
    del file["numbers"]
    file.create_dataset("numbers", (10,), "uint8", external=[("/etc/hostname", 0, 10)])


def _external_link(file: h5py.File) -> None:
    del file["numbers"]
    file["numbers"] = h5py.ExternalLink("other.h5", "/numbers")


def _soft_link(file: h5py.File) -> None:
    file["extra"] = h5py.SoftLink("/numbers")


def _virtual(file: h5py.File) -> None:
    del file["numbers"]
    layout = h5py.VirtualLayout((10,), "uint8")
    layout[:] = h5py.VirtualSource("other.h5", "numbers", shape=(10,))
    file.create_virtual_dataset("numbers", layout)


def _absurd(file: h5py.File) -> None:
    del file["numbers"]
    file.create_dataset("numbers", (10**12,), "uint8", chunks=(1024,), compression="gzip")


def _bomb(file: h5py.File) -> None:
    del file["numbers"]
    file.create_dataset("numbers", data=np.ones(10**7, np.uint8), compression="gzip")


def _strings(file: h5py.File) -> None:
    del file["numbers"]
    file["numbers"] = ["a"] * 10


def _cycle(file: h5py.File) -> None:
    file["targets/again"] = file["/"]


def _edited(file: h5py.File) -> None:
    file["targets/energy"].attrs["unit"] = "kcal/mol"


def _renamed(file: h5py.File) -> None:
    file.move("targets/mu", "targets/homo")


def _removed(file: h5py.File) -> None:
    del file["targets/mu"]


def _newer(file: h5py.File) -> None:
    file.attrs["version"] = 2


def _foreign(file: h5py.File) -> None:
    del file.attrs["format"]


@pytest.mark.parametrize(
    "change",
    [_external, _external_link, _soft_link, _virtual, _absurd, _bomb, _strings, _cycle, _edited,
     _renamed, _removed, _newer, _foreign],
)  # fmt: skip
def test_tampered_files_are_refused(tmp_path: Path, change: Callable[[h5py.File], None]) -> None:
    hdf5.write(tmp_path / "a.h5", dataset())
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        change(file)
    with pytest.raises(InputError) as caught:
        hdf5.read(tmp_path / "a.h5")
    assert str(tmp_path / "a.h5") in str(caught.value)


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("hello")
    for name, reason in (("a.h5", "not a readable HDF5 file"), ("b.h5", "no such file")):
        with pytest.raises(InputError, match=reason):
            hdf5.read(tmp_path / name)


LIMITED = """
import resource, sys
from tests.io.test_hdf5 import dataset, density, Path
from neupol_cli.io import hdf5
from neupol_cli.errors import StorageError
path = Path(sys.argv[1])
for limit in (1, 1000, 5000, 9000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for write in (lambda: hdf5.write(path, dataset()), lambda: density(path)):
        try:
            write()
        except StorageError as error:
            print(error.code)
"""


def test_failing_writes_end_cleanly_and_keep_the_old_file(tmp_path: Path) -> None:
    hdf5.write(tmp_path / "a.h5", dataset())
    before = (tmp_path / "a.h5").read_bytes()
    # In a process of its own, because HDF5 used to crash at its end after a failed write.
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "a.h5")],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.split()) == (0, ["74"] * 8), done.stderr
    assert (tmp_path / "a.h5").read_bytes() == before
    assert os.listdir(tmp_path) == ["a.h5"]


def test_io_failure_is_reported_for_unreadable_files(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    hdf5.write(tmp_path / "a.h5", dataset())
    (tmp_path / "a.h5").chmod(0)
    with pytest.raises(StorageError):
        hdf5.read(tmp_path / "a.h5")


def test_charges_and_multiplicities_that_are_unusual_are_kept(tmp_path: Path) -> None:
    plain, ion = Atoms("OH2", np.eye(3)), Atoms("OH", np.eye(3)[:2], info={"charge": -1})
    oxygen = Atoms("O2", np.eye(3)[:2], info={"spin": 2})
    hdf5.write(tmp_path / "a.h5", hdf5.from_atoms([plain, ion, oxygen], "structures", "t"))
    dataset = hdf5.read(tmp_path / "a.h5")
    assert [state(dataset.atoms(k)) for k in range(3)] == [(0, 1), (-1, 1), (0, 3)]
    assert dataset.targets["charge"].unit == "e"
    assert not hdf5.from_atoms([plain], "structures", "t").targets
