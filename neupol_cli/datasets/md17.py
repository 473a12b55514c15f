"""MD17: molecular dynamics of single molecules, energies and forces.

Original (Chmiela et al., Sci. Adv. 3, e1603015, 2017): arrays ``R z E F``. Revised (Christensen,
von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018, 2020): ``coords nuclear_charges energies
forces``, with the original labels of the same frames as ``old_energies old_forces``. Both are in
Angstrom, kcal/mol and kcal/mol/Angstrom unless the file names other units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neupol_cli import provenance
from neupol_cli.datasets import splits
from neupol_cli.errors import InputError
from neupol_cli.io import units
from neupol_cli.io.hdf5 import Dataset, Target
from neupol_cli.io.npz_archive import opened

USUAL = (950, 50)  # train and valid; the rest is for testing

# What we call an array -> what the two generations of files call it.
REVISED = {
    "numbers": "nuclear_charges",
    "positions": "coords",
    "energy": "energies",
    "forces": "forces",
}
REVISED_OLD = {**REVISED, "energy": "old_energies", "forces": "old_forces"}
ORIGINAL = {"numbers": "z", "positions": "R", "energy": "E", "forces": "F"}
SOURCE = {
    "coords": "revised MD17, Christensen and von Lilienfeld, doi 10.1088/2632-2153/abba6f",
    "R": "MD17, Chmiela et al., doi 10.1126/sciadv.1603015",
}


@dataclass(frozen=True)
class Frames:
    """F configurations of one molecule of A atoms, in eV and Angstrom."""

    numbers: np.ndarray  # (A,)
    positions: np.ndarray  # (F,A,3)
    energy: np.ndarray  # (F,)
    forces: np.ndarray  # (F,A,3)
    source: str


def read(
    paths: Sequence[str | Path],
    test: Sequence[str | Path] = (),
    counts: splits.Wanted | None = None,
    seed: int = 0,
    old: bool = False,
) -> Dataset:
    """One dataset from npz files of one molecule, with targets ``energy`` and ``forces``.

    Without ``test`` files, ``counts`` (train, valid[, test]) of all frames make the split; with
    them, (train, valid) are cut from the others. Default: the usual 950 and 50 of a long
    trajectory, else as ``splits.with_test``. ``old`` takes the original labels of a revised file.

    Raises:
        InputError.
    """
    provenance.inputs(*paths, *test)
    parts = [load(path, old) for path in (*paths, *test)]
    first = parts[0]
    for path, part in zip((*paths, *test), parts, strict=True):
        if not np.array_equal(part.numbers, first.numbers):
            raise InputError(f"{path}: holds another molecule than {paths[0]}")
    own = sum(len(part.energy) for part in parts[: len(paths)])
    size = sum(len(part.energy) for part in parts)
    if counts is None and not test and own > sum(USUAL):
        counts = USUAL
    return _dataset(parts, {"default": splits.with_test(own, size, counts, seed)})


def _dataset(parts: list[Frames], split: dict[str, dict[str, np.ndarray]]) -> Dataset:
    numbers, atoms = parts[0].numbers, len(parts[0].numbers)
    positions = np.concatenate([part.positions for part in parts])  # (N,A,3)
    energy = np.concatenate([part.energy for part in parts])
    forces = np.concatenate([part.forces for part in parts])
    return Dataset(
        "structures",
        numbers=np.tile(numbers.astype(np.int64), len(energy)),
        positions=positions.reshape(-1, 3),
        offsets=np.arange(len(energy) + 1) * atoms,
        targets={
            "energy": Target(energy, "eV"),
            "forces": Target(forces.reshape(-1, 3), "eV/Angstrom", "atom"),
        },
        splits=split,
        source=parts[0].source,
    )


def load(path: str | Path, old: bool = False) -> Frames:
    """The frames of one npz file, original or revised; InputError if it is not whole."""
    with opened(path) as archive:
        names = REVISED if "coords" in archive.files else ORIGINAL
        if old and names is REVISED:
            names = REVISED_OLD
        missing = [name for name in names.values() if name not in archive.files]
        if missing:
            raise InputError(
                f"{path}: has no {', '.join(missing)}; it has {', '.join(archive.files)}"
            )
        arrays = {ours: np.asarray(archive[theirs]) for ours, theirs in names.items()}
        energy = _unit(archive, "e_unit", "kcal/mol")
        length = _unit(archive, "r_unit", "Angstrom")
    arrays["energy"] = arrays["energy"].reshape(-1)
    _check(arrays, path)
    return Frames(
        arrays["numbers"],
        units.convert(arrays["positions"], length, "Angstrom"),
        units.convert(arrays["energy"], energy, "eV"),
        units.convert(arrays["forces"], f"{energy}/{length}", "eV/Angstrom"),
        SOURCE[names["positions"]],
    )


def _unit(archive: np.lib.npyio.NpzFile, key: str, default: str) -> str:
    """The unit that the file names (sGDML's convention), or the one of its publication."""
    if key not in archive.files:
        return default
    value = archive[key].item()
    return units.canonical_name(value.decode() if isinstance(value, bytes) else str(value))


def _check(arrays: dict[str, np.ndarray], path: str | Path) -> None:
    frames, atoms = len(arrays["energy"]), len(np.atleast_1d(arrays["numbers"]))
    for name in ("positions", "forces"):
        if arrays[name].shape != (frames, atoms, 3):
            raise InputError(
                f"{path}: {name} have shape {arrays[name].shape}; "
                f"{frames} energies and {atoms} atoms ask for {(frames, atoms, 3)}"
            )
    for name, values in arrays.items():
        if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
            raise InputError(f"{path}: {name} are not all finite numbers")
    if not frames or not atoms:
        raise InputError(f"{path}: has no frames")
