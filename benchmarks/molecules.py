"""Writes the molecules that energies and forces are learnt from: small, of H to Cl, off minima.

    neupol data qm9 -o qm9.h5
    python benchmarks/molecules.py qm9.h5 --count 1500 -o molecules.extxyz
    neupol data dft molecules.extxyz --no-density -o forces.h5

Two thirds are QM9's of its training part, with at most seven atoms besides hydrogen; a third are
compounds of S, P and Cl (PySCF's gth-dzvp has no Br): groups on stems, and common small molecules,
their geometries by ETKDG and MMFF94. Half stay where they are, which is near no minimum of another
method; the atoms of the others are displaced by 0.03 to 0.12 Angstrom.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from neupol_cli.io import hdf5, structures

LARGEST = 7  # atoms besides hydrogen, of QM9's
STEMS = (
    "C{}", "CC{}", "CCC{}", "CC(C){}", "C=C{}", "C#C{}", "c1ccccc1{}", "CC(=O){}", "N#CC{}",
    "OCC{}", "NCC{}", "FC{}", "C1CC1{}", "O=CC{}", "COC{}", "CNC(=O)C{}", "C=CC{}", "c1ccoc1{}",
    "OC(=O)C{}", "c1ccncc1{}", "CC(O){}", "c1cc[nH]c1{}", "FC(F){}", "CC(C)(C){}",
)  # fmt: skip
GROUPS = ("Cl", "S", "SC", "S(=O)C", "S(=O)(=O)C", "P", "P(C)C", "SC=C", "P(=O)(C)C", "SCl")
COMMON = (
    "S", "P", "Cl", "S=C=S", "O=C=S", "O=S=O", "ClP(Cl)Cl", "O=P(Cl)(Cl)Cl", "ClCCl", "ClC(Cl)Cl",
    "ClC(Cl)(Cl)Cl", "ClCCCl", "ClC=C", "ClC(Cl)=C", "c1ccsc1", "c1cscn1", "c1cc(Cl)sc1",
    "C1CCSC1", "C1CS1", "CSSC", "CS(=O)(=O)O", "CS(=O)(=O)N", "NC(=S)N", "CC(=S)N", "CC(=O)SC",
    "N#CS", "CSC#N", "CN=C=S", "OP(=O)(O)O", "COP(=O)(OC)OC", "CP(C)C", "P#C", "CS", "SCCO",
    "NCCS", "SCC(N)C(=O)O", "CSCCC(N)C(=O)O", "ClC#N", "O=C(Cl)Cl", "CC(=O)Cl", "O=S(Cl)Cl",
    "FS(F)(F)(F)(F)F", "FP(F)F", "c1ccc(Cl)cc1", "Clc1ccncc1", "OC(=O)CCl", "ClC1CC1", "CC(Cl)=O",
    "ClN", "OCl",
)  # fmt: skip
SIGMAS = (0.03, 0.06, 0.12)  # Angstrom


def of_qm9(path: Path, count: int, rng: np.random.Generator) -> list[Atoms]:
    """Random ones of the training part."""
    data = hdf5.read(path)
    heavy = np.add.reduceat(data.numbers > 1, data.offsets[:-1])
    train = next(iter(data.splits.values()))["train"]
    small = train[heavy[train] <= LARGEST]
    chosen = rng.choice(small, count, replace=False)
    parts = [slice(data.offsets[k], data.offsets[k + 1]) for k in chosen]
    return [
        Atoms(data.numbers[part], data.positions[part], info={"name": f"qm9_{k}"})
        for k, part in zip(chosen, parts, strict=True)
    ]


def of_smiles(count: int, rng: np.random.Generator) -> list[Atoms]:
    """Random compounds; where there are more to be made than compounds, some come twice."""
    made = [stem.format(group) for stem, group in product(STEMS, GROUPS)] + list(COMMON)
    order = np.concatenate([rng.permutation(len(made)) for _ in range(-(-count // len(made)))])
    found = []
    for _, atoms in structures.read([made[k] for k in order[:count]], "skip"):
        found.append(
            Atoms(atoms.numbers, atoms.positions, info={"name": str(atoms.info["smiles"])})
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("qm9", type=Path)
    parser.add_argument("--count", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("molecules.extxyz"))
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    others = options.count // 3
    found = of_qm9(options.qm9, options.count - others, rng) + of_smiles(others, rng)
    for atoms in found:
        if rng.random() < 0.5:
            atoms.positions += rng.choice(SIGMAS) * rng.normal(size=(len(atoms), 3))
    ase.io.write(options.output, [found[k] for k in rng.permutation(len(found))], format="extxyz")


if __name__ == "__main__":
    main()
