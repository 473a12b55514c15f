"""One dataset of energies and forces out of several of `neupol data dft`, split by molecule.

    neupol data dft part000.extxyz --no-density -o part000.h5      # and so on, on as many machines
    python benchmarks/labels.py part*.h5 -o forces.h5 --largest 20

What has a force beyond ``--largest`` is left out: atoms that a displacement has pushed into each
other. A molecule is on one side of the split by what its bonds look like (each atom's element,
coordination and neighbours), with every displaced copy of it, whatever else is in the file.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase import Atoms

from neupol_cli.domain.bonds import Bonds
from neupol_cli.io import hdf5

VALID, TEST = 0.8, 0.9  # where these parts begin, of all molecules in the order of their digests


def place(atoms: Atoms) -> float:
    """Where a molecule stands among all there could be, 0 to 1; alike for its displaced copies."""
    look = " ".join(sorted(Bonds.of(atoms).surroundings()))
    return int(hashlib.sha256(look.encode()).hexdigest()[:12], 16) / 16**12


def partition(molecules: list[Atoms]) -> dict[str, np.ndarray]:
    """Indices of train, valid and test."""
    places = np.array([place(atoms) for atoms in molecules])
    return {
        "train": np.flatnonzero(places < VALID),
        "valid": np.flatnonzero((places >= VALID) & (places < TEST)),
        "test": np.flatnonzero(places >= TEST),
    }


def joined(paths: list[Path], largest: float) -> hdf5.Dataset:
    """All structures of these files whose forces (eV/Angstrom) are no larger."""
    sets = [hdf5.read(path) for path in paths]
    found: list[tuple[Atoms, dict[str, np.ndarray]]] = []
    for data in sets:
        for k in range(data.size):
            rows = slice(data.offsets[k], data.offsets[k + 1])
            labels = {
                name: target.values[rows] if target.per == "atom" else target.values[k : k + 1]
                for name, target in data.targets.items()
            }
            if np.linalg.norm(labels["forces"], axis=1).max() <= largest:
                found.append((data.atoms(k), labels))
    molecules = [atoms for atoms, _ in found]
    whole = hdf5.from_atoms(molecules, "structures", sets[0].source)
    for name, target in sets[0].targets.items():
        values = np.concatenate([labels[name] for _, labels in found])
        whole.targets[name] = replace(target, values=values)
    for data in sets:
        whole.references.update(data.references)
    whole.splits["molecules"] = partition(molecules)
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--largest", type=float, default=20.0, help="force, eV/Angstrom")
    parser.add_argument("-o", "--output", type=Path, default=Path("forces.h5"))
    options = parser.parse_args()
    data = joined(options.files, options.largest)
    hdf5.write(options.output, data)
    print({name: len(indices) for name, indices in data.splits["molecules"].items()})


if __name__ == "__main__":
    main()
