"""``neupol data md17`` as a user runs it."""

from __future__ import annotations

import io
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import molecule

from neupol_cli.datasets import md17
from neupol_cli.errors import InputError
from neupol_cli.io import hdf5, units
from tests.raw_data import Run


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
        with pytest.raises(InputError):
            md17.load(tmp_path / "b.npz")
    draw, expected = random.Random(0), md17.load(tmp_path / "a.npz")
    for _ in range(200):
        damaged = bytearray(good)
        damaged[draw.randrange(len(good))] ^= 1 << draw.randrange(8)
        (tmp_path / "b.npz").write_bytes(damaged)
        with suppress(InputError):
            np.testing.assert_array_equal(md17.load(tmp_path / "b.npz").forces, expected.forces)
    _absurd_npz(tmp_path / "b.npz")
    with pytest.raises(InputError, match=r"declares \(1000000000000,\)"):
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
        with pytest.raises(InputError, match=reason):
            md17.load(npz(tmp_path / "c.npz", 40, **changes))
    with pytest.raises(InputError, match="no such file"):
        md17.load(tmp_path / "d.npz")
