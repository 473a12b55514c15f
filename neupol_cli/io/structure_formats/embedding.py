"""Places for the atoms of one molecule of RDKit's: ETKDGv3, then MMFF94, or UFF where that has no
parameters for it.

The seeds are fixed: a molecule has one geometry, and the same further ones, on any number of
threads. All have the stereocentres of the first one, also those that a SMILES leaves open.

Two conformers count as one where their energies and, but for hydrogens on carbon, their places are
the same after the best rotation and exchange of atoms that are alike. Mirror images are two: both
are there in a gas. The thresholds are those of CREST (Pracht, Bohle, Grimme, PCCP 22, 7169, 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli.io.units import KCALMOL

if TYPE_CHECKING:
    from rdkit.Chem import Mol

SEED = 1  # of the first geometry; the next one's is of all further ones
TRIES = 20  # of placing the atoms, and as many from random places
STEPS = 5000  # of a force field, which small molecules take tens of
SAME_ENERGY = 0.05  # kcal/mol
SAME_PLACES = 0.125  # Angstrom, root mean square


@dataclass(frozen=True)
class Conformers:
    """Geometries of one molecule that differ, by energy.

    Attributes:
        positions: (K,N,3), Angstrom, each around its centre.
        energies: (K,), eV, of the force field.
        field: its name.
        tried: how many were placed, duplicates included.
        is_minimum: whether the force field has come to an end with all of them.
    """

    positions: np.ndarray
    energies: np.ndarray
    field: str
    tried: int
    is_minimum: bool


def placed(piece: Mol, count: int = 1) -> Conformers:
    """At most ``count`` conformers of a molecule with its hydrogens; at least one.

    Raises:
        ValueError: there are none, or no force field knows the atoms.
    """
    _embed(piece, count)
    tried = piece.GetNumConformers()
    energies, field, is_minimum = _relaxed(piece)
    kept = _different(piece, energies) if tried > 1 else [0]
    positions = np.array([list(piece.GetConformers())[k].GetPositions() for k in kept])
    centred = positions - positions.mean(1, keepdims=True)
    return Conformers(centred, KCALMOL * energies[kept], field, tried, is_minimum)


def _embed(piece: Mol, count: int) -> None:
    """Gives a molecule a conformer, and tries to give it ``count - 1`` more.

    Raises:
        ValueError: it gets none.
    """
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom

    settings = rdDistGeom.ETKDGv3()
    settings.randomSeed, settings.maxIterations = SEED, TRIES
    if rdDistGeom.EmbedMolecule(piece, settings) < 0:
        settings.useRandomCoords = True
        if rdDistGeom.EmbedMolecule(piece, settings) < 0:
            raise ValueError("gets no places for its atoms from RDKit")
    if count > 1:
        Chem.AssignStereochemistryFrom3D(piece)
        settings.randomSeed, settings.clearConfs = SEED + 1, False
        rdDistGeom.EmbedMultipleConfs(piece, count - 1, settings)


def _relaxed(piece: Mol) -> tuple[np.ndarray, str, bool]:
    """Moves all conformers to minima of a force field.

    Returns:
        (K,) energies in kcal/mol, the force field, and whether all are minima.

    Raises:
        ValueError: no force field knows the atoms.
    """
    from rdkit.Chem import rdForceFieldHelpers as fields

    if piece.GetNumAtoms() == 1:
        return np.zeros(piece.GetNumConformers()), "MMFF94", True
    if fields.MMFFHasAllMoleculeParams(piece):
        field, ends = "MMFF94", fields.MMFFOptimizeMoleculeConfs(piece, 1, STEPS, "MMFF94")
    elif fields.UFFHasAllMoleculeParams(piece):
        field, ends = "UFF", fields.UFFOptimizeMoleculeConfs(piece, 1, STEPS)
    else:
        raise ValueError("has atoms that neither MMFF94 nor UFF knows")
    left, energies = zip(*ends, strict=True)
    return np.array(energies), field, not any(left)


def _different(piece: Mol, energies: np.ndarray) -> list[int]:
    """Which conformers remain when each is one only once, the lowest energy first."""
    skeleton = _without_hydrogens_on_carbon(piece)
    kept: list[int] = []
    for one in map(int, np.argsort(energies, kind="stable")):
        near = [k for k in kept if energies[one] - energies[k] < SAME_ENERGY]
        if not any(_apart(skeleton, one, other) < SAME_PLACES for other in near):
            kept.append(one)
    return kept


def _without_hydrogens_on_carbon(piece: Mol) -> Mol:
    """The atoms that tell conformers apart: others follow them, and are alike too often."""
    from rdkit import Chem

    skeleton = Chem.RWMol(piece)
    hydrogens = [atom for atom in piece.GetAtoms() if atom.GetAtomicNum() == 1]
    bonded = {atom.GetIdx(): [n.GetAtomicNum() for n in atom.GetNeighbors()] for atom in hydrogens}
    for index in sorted((k for k, others in bonded.items() if others == [6]), reverse=True):
        skeleton.RemoveAtom(index)
    return skeleton


def _apart(skeleton: Mol, one: int, other: int) -> float:
    """Root mean square distance of two conformers, Angstrom, at the best rotation and order."""
    from rdkit.Chem import rdMolAlign

    names = [conformer.GetId() for conformer in skeleton.GetConformers()]
    return float(rdMolAlign.GetBestRMS(skeleton, skeleton, names[one], names[other]))
