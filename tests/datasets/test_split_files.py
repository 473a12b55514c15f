"""The files that published data sets have beside their structures: splits, lists, ChargE3Net's."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from neupol_cli.datasets import density, qm9, splits
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import hdf5, volumetric
from neupol_cli.io.volumetric import Volume, by_counts, npy
from neupol_cli.io.volumetric.h5 import volume_of
from tests.warm import neupol


def crystal(symbols: str, edge: float = 4.0, spin: bool = False) -> Volume:
    """Gaussians of as many electrons as hydrogens and helium have, in a cubic cell."""
    count = len(Atoms(symbols))
    positions = np.full((count, 3), edge / 2) + np.arange(count)[:, None] * [0.7, 0, 0]
    atoms = Atoms(symbols, positions, cell=[edge] * 3, pbc=True)
    grid = by_counts(atoms, (16, 16, 16), 0.0)
    values = np.zeros(grid.size)
    for number, place in zip(atoms.numbers, positions, strict=True):
        squared = ((grid.points() - place) ** 2).sum(1)
        values += number * np.exp(-squared / 0.3) / (np.pi * 0.3) ** 1.5
    table = values.reshape(grid.shape)
    return Volume(atoms, grid, table, 0.1 * table if spin else None)


def write_pair(folder: Path, name: str, one: Volume) -> Path:
    """What ChargE3Net's scripts make of a CHGCAR."""
    values = one.values if one.spin is None else np.stack((one.values, one.spin), -1)
    np.save(folder / f"{name}.npy", values)
    with (folder / f"{name}_atoms.pkl").open("wb") as stream:
        pickle.dump(one.atoms, stream)
    return folder / f"{name}.npy"


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder of four, and the list of them in another order than the alphabet's."""
    folder = tmp_path / "mp"
    folder.mkdir()
    for name, symbols in (("mp-10", "H"), ("mp-9", "H2"), ("mp-77", "He"), ("mp-1", "HHe")):
        write_pair(folder, name, crystal(symbols))
    (folder / "filelist.txt").write_text("mp-9\nmp-10\nmp-1\nmp-77\n")
    return folder


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("spin", [False, True])
def test_a_pair_is_the_density_and_its_structure(spin: bool, tmp_path: Path) -> None:
    one = crystal("HHe", spin=spin)
    read = volumetric.read(write_pair(tmp_path, "x", one))
    assert np.array_equal(read.values, one.values) and read.electrons == pytest.approx(3, abs=0.01)
    assert (read.spin is None) != spin and (not spin or np.array_equal(read.spin, one.spin))
    assert read.atoms == one.atoms
    np.testing.assert_allclose(read.grid.box, one.grid.box, rtol=0, atol=1e-12)


def test_pairs_are_not_written(tmp_path: Path) -> None:
    water, output = "3\n\nO 0 0 0\nH 0 0.8 0.6\nH 0 -0.8 0.6\n", tmp_path / "w.npy"
    for words in (["density"], ["density-descriptor", "iri"]):
        done = neupol(*words, "-", "--spacing", "0.6", "-o", output, input=water)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert "npy can only be read; the name must end in .cube" in done.stderr
    with pytest.raises(UsageError, match="only be read"):
        volumetric.write(output, crystal("H"), "")
    assert not output.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_every_form_of_pickle_is_read(protocol: int, tmp_path: Path) -> None:
    path = write_pair(tmp_path, "x", crystal("HHe"))
    plain = crystal("HHe").atoms
    plain.info = {"id": "mp-1", "energy": -1.5}
    (tmp_path / "x_atoms.pkl").write_bytes(pickle.dumps(plain, protocol=protocol))
    assert npy.read(path).atoms == crystal("HHe").atoms


class Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, ("ran",)


def test_no_program_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_pair(tmp_path, "x", crystal("H"))
    for content in (Runs(), {"arrays": Runs()}, [crystal("H").atoms, Runs()]):
        (tmp_path / "x_atoms.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(InputError, match="no pickled structure"):
            npy.read(path)
    assert not (tmp_path / "ran").exists()


def test_mutated_pickles_are_read_or_refused(tmp_path: Path) -> None:
    path = write_pair(tmp_path, "x", crystal("HHe"))
    structure = tmp_path / "x_atoms.pkl"
    random, outcomes = np.random.default_rng(0), set()
    for protocol in range(6):
        whole = pickle.dumps(crystal("HHe").atoms, protocol=protocol)
        for _ in range(150):
            content = bytearray(whole)
            for place in random.integers(len(whole), size=random.integers(1, 4)):
                content[place] = random.integers(256)
            structure.write_bytes(content)
            try:
                outcomes.add(len(npy.read(path).atoms))
            except InputError as error:
                assert str(error).startswith(str(tmp_path)) and "\n" not in str(error)
                outcomes.add(0)
    assert outcomes == {0, 2}


@pytest.mark.parametrize("cut", [0, 1, 40, 200])
def test_damaged_pairs_are_refused(cut: int, tmp_path: Path) -> None:
    path = write_pair(tmp_path, "x", crystal("H"))
    whole = (tmp_path / "x_atoms.pkl").read_bytes()
    (tmp_path / "x_atoms.pkl").write_bytes(whole[:cut])
    with pytest.raises(InputError, match=r"x_atoms\.pkl"):
        npy.read(path)
    (tmp_path / "x_atoms.pkl").unlink()
    with pytest.raises(InputError, match="no such file"):
        npy.read(path)
    path.write_bytes(path.read_bytes()[: -1 - cut])
    with pytest.raises(InputError, match=r"x\.npy"):
        npy.read(path)
    np.save(path, np.array([object()]))
    with pytest.raises(InputError, match="not a whole"):
        npy.read(path)


def test_a_list_gives_its_order_and_a_split_file_its_splits(pairs: Path, tmp_path: Path) -> None:
    """Indices count what the list names, those that cannot be read as well."""
    (pairs / "mp-10.npy").write_bytes(b"damaged")
    given = {"train": [3, 1], "validation": [0], "test": [2]}
    split, output = written(tmp_path / "datasplits.json", given), tmp_path / "set.h5"
    done = neupol("data", "density", pairs / "filelist.txt", "--split-file", split, "-o", output)
    assert done.returncode == 0, done.stderr
    assert "mp-10.npy" in done.stderr and "3 densities (train 1, valid 1, test 1)" in done.stderr
    dataset = hdf5.read(output)
    formulas = [dataset.atoms(k).get_chemical_formula() for k in range(dataset.size)]
    assert formulas == ["H2", "HHe", "He"]
    found = {name: indices.tolist() for name, indices in dataset.splits["default"].items()}
    assert found == {"train": [2], "valid": [0], "test": [1]}
    assert volume_of(dataset, 2).electrons == pytest.approx(2, abs=0.01)


def test_a_folder_of_pairs_is_read(pairs: Path, tmp_path: Path) -> None:
    report = density.collect([pairs], tmp_path / "set.h5")
    assert report.read == 4 and not report.failed


def test_a_chgcar_can_be_a_molecule(tmp_path: Path) -> None:
    """QM9-VASP is read without its cells, as its published networks do."""
    for name, edge in (("wide", 9.0), ("narrow", 4.0)):
        volumetric.write(tmp_path / f"{name}.CHGCAR", crystal("H2", edge), "H2")
    done = neupol("data", "density", tmp_path, "--no-pbc", "-o", tmp_path / "set.h5")
    assert done.returncode == 0, done.stderr
    assert "narrow.CHGCAR: --no-pbc needs a whole molecule in a wide box" in done.stderr
    assert not hdf5.read(tmp_path / "set.h5").atoms(0).pbc.any()
    alone = volumetric.read(tmp_path / "wide.CHGCAR", pbc=False)
    volumetric.write(tmp_path / "alone.npz", alone, "H2")
    with pytest.raises(InputError, match="states that it is a molecule"):
        volumetric.read(tmp_path / "alone.npz", pbc=True)


def test_split_files_of_other_kinds(tmp_path: Path) -> None:
    np.savez(tmp_path / "splits.npz", idx_train=[4, 0], idx_val=[1], idx_test=np.array([2, 3]))
    parts = splits.from_file(tmp_path / "splits.npz")
    assert {k: v.tolist() for k, v in parts.items()} == {
        "train": [4, 0], "valid": [1], "test": [2, 3],
    }  # fmt: skip
    parts = splits.shuffled(5, splits.from_file(written(tmp_path / "a.json", {"train": [2]})), 0)
    assert parts["train"].tolist() == [2] and not len(parts["valid"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": [0, 1], "validation": [1]}, "index 1 stands there twice"),
        ({"train": [0, -1]}, "train is no list of indices"),
        ({"train": [0.5]}, "no list of indices"),
        ({"train": "all"}, "no list of indices"),
        ({"train": [[0], [1, 2]]}, "no list of indices"),
        ({"other": [1]}, "has none of the lists train, validation, test"),
        ({"val": [1], "validation": [2]}, "has both"),
        ([1, 2], "no object of lists"),
        ({"train": [0, 9]}, "an index 9, of 4 structures"),
    ],
)
def test_wrong_split_files_are_refused(content: object, message: str, tmp_path: Path) -> None:
    path = written(tmp_path / "splits.json", content)
    with pytest.raises(InputError, match=message):
        splits.shuffled(4, splits.from_file(path), 0)


def test_damaged_split_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    path.write_text('{"train": [1, 2')
    with pytest.raises(InputError, match="not JSON"):
        splits.from_file(path)
    (tmp_path / "splits.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="npz"):
        splits.from_file(tmp_path / "splits.npz")
    with pytest.raises(UsageError, match="choose one"):
        splits.wanted("3,1", path)
    with pytest.raises(UsageError, match="leave out --test"):
        splits.with_test(3, 4, {"train": np.arange(3)}, 0)


def test_the_partition_of_torchmd_net() -> None:
    """The first indices of numpy's generator with seed 1, and no structure twice."""
    parts = qm9.partition(qm9.SIZE, "torchmd", None, 0)["torchmd"]
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 110_000, "valid": 10_000, "test": 10_831,
    }  # fmt: skip
    order = np.random.default_rng(1).permutation(qm9.SIZE)
    assert np.array_equal(np.concatenate(list(parts.values())), order)
    with pytest.raises(UsageError, match="all of QM9"):
        qm9.partition(1000, "torchmd", None, 0)
    assert list(qm9.partition(1000, None, None, 0)) == ["paper"]
    assert list(qm9.partition(1000, "800,100", None, 0)) == ["default"]


def test_frames_are_divided_as_a_file_says(tmp_path: Path) -> None:
    frames = tmp_path / "frames.xyz"
    frames.write_text("".join(f"1\nenergy={-k}\nH 0 0 0\n" for k in range(5)))
    split, output = written(tmp_path / "s.json", {"train": [4, 2], "val": [0]}), tmp_path / "a.h5"
    done = neupol("data", "xyz", frames, "--split-file", split, "-o", output)
    assert done.returncode == 0, done.stderr
    assert hdf5.read(output).splits["default"]["train"].tolist() == [4, 2]
    both = neupol("data", "xyz", frames, "--split-file", split, "--partition", "3,1", "-o", output)
    assert both.returncode == 2 and "choose one" in both.stderr
