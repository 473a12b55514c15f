"""Writes the molecules that spin densities are learnt from: radicals, triplets, closed shells.

    python benchmarks/radicals.py -o radicals.extxyz --split split.json
    neupol data dft radicals.extxyz --spin --spacing 0.4 --on-error fail -o all.h5
    neupol data density all.h5 --spin --split-file split.json -o radicals.h5

H, C, N, O and F, one to four atoms besides hydrogen; ASE's G2 geometries, or ETKDG and MMFF94 from
SMILES. Of each there are copies whose atoms are displaced by 0.03 to 0.12 Angstrom. A compound is
in one split with all of its copies, so that none is tested on whose like was seen.

Radicals with a degenerate ground state (OH, NO, CH, most atoms) are not among them: DFT's density
is one of many then, turned this way or that, and a network's can only be their mean.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import molecule

from neupol_cli.io import charges, structures

OF_G2 = (
    "O2", "NH", "CH2_s3B1d", "CN", "CCH", "HCO", "NH2", "CH3", "C2H5", "C2H3", "NO2", "H2COH",
    "CH3CO", "CH3O", "CH3CH2O", "C3H7",
)  # fmt: skip
OF_SMILES = (
    "O[O]", "CO[O]", "[CH2]F", "F[CH]F", "F[C](F)F", "C[NH]", "C[N]C", "[CH2]N", "N[NH]",
    "[CH2]C=C", "[CH2]C#C", "[CH2]C#N", "[CH2]C=O", "[CH2]CC", "CO[CH2]", "C[CH]O", "C[CH]F",
    "[CH2]CF", "[CH2]CO", "[CH2]NC", "C=[N]", "F[N]F", "[NH]F", "O[C]=O", "F[C]=O", "C=[C]F",
    "C[C]=C", "[NH]C=O", "C[CH]C#N", "O[NH]", "N[C]=O", "C[CH]", "C[N]", "F[N]",
    "[CH2]C[CH2]", "[CH2][CH2]",
)  # fmt: skip
CLOSED = (
    "O", "C", "N", "F", "CC", "C=C", "C#C", "C#N", "C=O", "CO", "CF", "CN", "CC=O", "CC#N", "OO",
    "NN", "N#N", "O=C=O", "OC=O", "FC(F)F", "C=CC", "C#CC", "NC=O", "COC",
)  # fmt: skip
SIGMAS = (0.03, 0.06, 0.12)  # Angstrom
HELD_OUT, VALID = (12, 4), (12, 4)  # compounds with and without unpaired electrons


def compounds() -> tuple[list[Atoms], list[Atoms]]:
    """Those with unpaired electrons, and those without."""
    of_g2 = [_bare(molecule(name), f"G2 {name}") for name in OF_G2]
    return of_g2 + _of_smiles(OF_SMILES), _of_smiles(CLOSED)


def _of_smiles(words: Sequence[str]) -> list[Atoms]:
    found = structures.read(list(words), "fail")
    return [_bare(atoms, f"SMILES {atoms.info['smiles']}") for _, atoms in found]


def _bare(atoms: Atoms, name: str) -> Atoms:
    """Elements, places, name and multiplicity, and nothing else."""
    spin = charges.state(atoms)[1]
    return Atoms(atoms.numbers, atoms.positions, info={"name": name, "multiplicity": spin})


def displaced(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """A copy off its minimum."""
    copy = atoms.copy()
    copy.positions += rng.choice(SIGMAS) * rng.normal(size=(len(atoms), 3))
    return copy


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("radicals.extxyz"))
    parser.add_argument("--split", type=Path, default=Path("split.json"))
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    frames: list[Atoms] = []
    split: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for found, test, valid in zip(compounds(), HELD_OUT, VALID, strict=True):
        for place, k in enumerate(rng.permutation(len(found))):
            part = "test" if place < test else "validation" if place < test + valid else "train"

            made = [found[k], *(displaced(found[k], rng) for _ in range(options.copies))]
            split[part] += range(len(frames), len(frames) + len(made))
            frames += made
    ase.io.write(options.output, frames, format="extxyz")
    options.split.write_text(json.dumps(split))


if __name__ == "__main__":
    main()
