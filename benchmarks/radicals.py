"""Writes the molecules that spin densities are learnt from: radicals, triplets, closed shells.

    python benchmarks/radicals.py -o radicals.extxyz --split split.json
    neupol data dft radicals.extxyz --spin --spacing 0.4 --no-free-atoms --on-error fail -o all.h5
    neupol data density all.h5 --spin --split-file split.json -o radicals.h5

H, C, N, O and F, one to four atoms besides hydrogen; ASE's G2 geometries, or ETKDG and MMFF94 from
SMILES. Those that are listed are there as they are and displaced by 0.03 to 0.12 Angstrom; of all
others that such atoms make, chains and branches, some by chance, displaced. A compound is in one
split with all of its copies and resonance forms, so that none is tested on whose like was seen.

Radicals with a degenerate ground state (OH, NO, CH, most atoms) are not among them: DFT's density
is one of many then, turned this way or that, and a network's can only be their mean.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.neighborlist import natural_cutoffs, neighbor_list
from rdkit import Chem, RDLogger

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
MADE, MADE_HELD_OUT, MADE_VALID = (600, 100), (40, 10), (24, 6)  # the same of those made
HEAVY, VALENCES = 4, {"C": 4, "N": 3, "O": 2, "F": 1}
# Explosive, or nothing that a force field knows.
UNLIKELY = tuple(
    map(
        Chem.MolFromSmarts,
        ("O~O~O", "[O,N,F]~F", "[N,O]~[N,O]~[N,O]", "[N,O]#[N,O]~*", "C=C=C=*", "C#CC#C"),
    )
)


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


def closed_shells() -> list[str]:
    """SMILES of the chains and branches of up to HEAVY atoms besides hydrogen."""
    level = {_canonical(Chem.MolFromSmiles(element)) for element in VALENCES}
    found = set(level)
    for _ in range(HEAVY - 1):
        level = {grown for smiles in level for grown in _grown(Chem.MolFromSmiles(smiles))}
        found |= level
    return sorted(smiles for smiles in found if not _is_unlikely(Chem.MolFromSmiles(smiles)))


def _grown(parent: Chem.Mol) -> Iterator[str]:
    """One atom more, by any bond in any place of a hydrogen's."""
    for atom in parent.GetAtoms():
        for element, valence in VALENCES.items():
            for order in range(1, min(atom.GetTotalNumHs(), valence, 3) + 1):
                child = Chem.RWMol(parent)
                new = child.AddAtom(Chem.Atom(element))
                child.AddBond(atom.GetIdx(), new, Chem.BondType.values[order])
                yield _canonical(child)


def _canonical(mol: Chem.Mol) -> str:
    Chem.SanitizeMol(mol)
    smiles: str = Chem.MolToSmiles(mol)
    return smiles


def _is_unlikely(mol: Chem.Mol) -> bool:
    return any(mol.HasSubstructMatch(pattern) for pattern in UNLIKELY)


def without_a_hydrogen(smiles: str) -> Iterator[str]:
    """SMILES of the radicals that it leaves, from every place."""
    for atom in Chem.MolFromSmiles(smiles).GetAtoms():
        if atom.GetTotalNumHs():
            radical = Chem.MolFromSmiles(smiles)
            place = radical.GetAtomWithIdx(atom.GetIdx())
            place.SetNumExplicitHs(atom.GetTotalNumHs() - 1)
            place.SetNoImplicit(True)
            place.SetNumRadicalElectrons(1)
            yield _canonical(radical)


def made(known: set[str], rng: np.random.Generator) -> tuple[list[Atoms], list[Atoms]]:
    """Compounds of closed_shells, and radicals of them, that are not known: the radicals first."""
    parents = closed_shells()
    radicals = sorted({radical for one in parents for radical in without_a_hydrogen(one)})
    some = [
        _unknown(words, known, count, rng)
        for words, count in zip((radicals, parents), MADE, strict=True)
    ]
    return some[0], some[1]


def _unknown(
    words: Sequence[str], known: set[str], most: int, rng: np.random.Generator
) -> list[Atoms]:
    """Some of them in random order, none that is known or there twice."""
    found: list[Atoms] = []
    for _, atoms in structures.read(rng.permutation(words).tolist(), "skip"):
        if len(found) < most and (name := skeleton(atoms)) not in known:
            known.add(name)
            found.append(_bare(atoms, f"SMILES {atoms.info['smiles']}"))
    return found


def skeleton(atoms: Atoms) -> str:
    """What is bonded to what, the same for all resonance forms: bonds have no order in it."""
    mol = Chem.RWMol()
    for number in atoms.numbers.tolist():
        mol.AddAtom(Chem.Atom(number))
    for i, j in zip(*neighbor_list("ij", atoms, natural_cutoffs(atoms, 1.2)), strict=True):
        if i < j:
            mol.AddBond(int(i), int(j), Chem.BondType.SINGLE)
    for atom in mol.GetAtoms():
        atom.SetNoImplicit(True)
    smiles: str = Chem.MolToSmiles(mol)
    return smiles


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
    RDLogger.DisableLog("rdApp.*")  # some cannot be: no place for an atom is found
    rng = np.random.default_rng(options.seed)
    frames: list[Atoms] = []
    split: dict[str, list[int]] = {"train": [], "validation": [], "test": []}

    def put(atoms: Sequence[Atoms], part: str) -> None:
        split[part] += range(len(frames), len(frames) + len(atoms))
        frames.extend(atoms)

    listed = compounds()
    for found, test, valid in zip(listed, HELD_OUT, VALID, strict=True):
        for place, k in enumerate(rng.permutation(len(found))):
            copies = [displaced(found[k], rng) for _ in range(options.copies)]
            put([found[k], *copies], _part(place, test, valid))
    known = {skeleton(atoms) for found in listed for atoms in found}
    for found, test, valid in zip(made(known, rng), MADE_HELD_OUT, MADE_VALID, strict=True):
        for place, atoms in enumerate(found):
            put([displaced(atoms, rng)], _part(place, test, valid))
    ase.io.write(options.output, frames, format="extxyz")
    options.split.write_text(json.dumps(split))


def _part(place: int, test: int, valid: int) -> str:
    """The split of a compound, by its place in a random order."""
    return "test" if place < test else "validation" if place < test + valid else "train"


if __name__ == "__main__":
    main()
