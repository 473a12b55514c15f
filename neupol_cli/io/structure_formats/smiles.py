"""A molecule from its SMILES, through RDKit (extra [rdkit]).

Hydrogens are added, each molecule of a text with dots is placed by ETKDGv3 and relaxed by MMFF94,
by UFF where MMFF94 has no parameters for it. The seed is fixed: a SMILES has one geometry, on any
number of threads. Formal charges make ``charge``, unpaired electrons ``multiplicity``. What a
SMILES leaves open (stereocentres, how molecules lie together) is chosen and doubted.
Formats: Daylight, SMILES theory manual; geometry: Wang, Witek, Landrum, Riniker 2020 (ETKDGv3).
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ase import Atoms

from neupol_cli.errors import UsageError

if TYPE_CHECKING:
    from rdkit.Chem import Mol

SEED = 1
TRIES = 20  # of placing the atoms, and as many from random places
STEPS = 5000  # of a force field, which small molecules take tens of
MOST = 300  # atoms: they take some ten seconds, and the time grows with the square
LONGEST = 10 * MOST  # characters
APART = 4.0  # Angstrom between the molecules of a text with dots
NOTE = (
    "geometries of SMILES are a force field's, one conformer each: models of better ones, as the "
    "bundled models are, are farther off than they say"
)

_ATOM = r"(?:\[[^\[\]\s]{1,40}\]|Br|Cl|[BCNOPSFIbcnops*])"
_OTHER = r"(?:[-=#$:~/\\.()<>]|%\d\d|%\(\d{1,5}\)|\d)"
_SMILES = re.compile(rf"{_ATOM}(?:{_ATOM}|{_OTHER})*")
_DATIVE = re.compile(r"->|<-")


class Molecule(NamedTuple):
    """
    Attributes:
        atoms: with what the SMILES says of them as info; Angstrom.
        doubts: what it leaves open.
    """

    atoms: Atoms
    doubts: tuple[str, ...]


def looks_like(word: str) -> bool:
    """Whether a word is made of what SMILES are made of; most file names are not."""
    return _SMILES.fullmatch(word) is not None


def require(meant: str = "") -> None:
    """Sees to it that RDKit is there, and silent.

    Args:
        meant: what to say first where it is not.

    Raises:
        UsageError: it is not, with how to get it.
    """
    try:
        import_module("rdkit.Chem.rdDistGeom")
    except ImportError as trouble:
        raise UsageError(f"{meant}RDKit is not installed: pip install 'neupol[rdkit]'") from trouble
    import_module("rdkit.rdBase").DisableLog("rdApp.*")  # what it finds wrong is said by us


def molecule(word: str) -> Molecule:
    """Atoms and places for a SMILES.

    Raises:
        ValueError: why there are none, as the rest of a sentence: it is no SMILES, no molecule, or
            cannot be built.
    """
    try:
        return _molecule(word)
    except RuntimeError as error:  # conditions within RDKit
        raise ValueError(f"is too much for RDKit: {' '.join(str(error).split())[:200]}") from error


def _molecule(word: str) -> Molecule:
    from rdkit import Chem

    drawn = parsed(word)
    whole = Chem.AddHs(drawn)
    if whole.GetNumAtoms() > MOST:
        raise ValueError(f"has {whole.GetNumAtoms()} atoms; at most {MOST} are placed by RDKit")
    numbers = [atom.GetAtomicNum() for atom in whole.GetAtoms()]
    places, doubts = _places(whole)
    atoms = Atoms(numbers, places, info=_said(whole) | {"smiles": word})
    return Molecule(atoms, (*_left_open(drawn, whole, places), *_unusual(whole), *doubts))


def parsed(word: str) -> Mol:
    """RDKit's molecule, as it is written, without hydrogens.

    Raises:
        ValueError: what is wrong with it.
    """
    from rdkit import Chem

    if len(word) > LONGEST:
        raise ValueError(f"has {len(word)} characters; at most {LONGEST} are read")
    if ">" in _DATIVE.sub("", word):
        raise ValueError("is a reaction; write its molecules apart")
    settings = Chem.SmilesParserParams()
    settings.allowCXSMILES = settings.parseName = False
    found = Chem.MolFromSmiles(word, settings)
    if found is None:
        raise ValueError(_fault(word))
    if not found.GetNumAtoms():
        raise ValueError("has no atoms")
    if any(atom.GetAtomicNum() == 0 for atom in found.GetAtoms()):
        raise ValueError("has a wildcard (*) in place of an atom")
    return found


def _fault(word: str) -> str:
    """What RDKit does not like about a word."""
    from rdkit import Chem

    settings = Chem.SmilesParserParams()
    settings.allowCXSMILES = settings.parseName = settings.sanitize = False
    found = Chem.MolFromSmiles(word, settings)
    problems = [] if found is None else list(Chem.DetectChemistryProblems(found))
    if not problems:
        return "cannot be read by RDKit"
    return f"is no molecule: {' '.join(problems[0].Message().split())[:200]}"


def _said(whole: Mol) -> dict[str, object]:
    """Charge and multiplicity, where they are not those of any molecule."""
    charge = sum(atom.GetFormalCharge() for atom in whole.GetAtoms())
    unpaired = sum(atom.GetNumRadicalElectrons() for atom in whole.GetAtoms())
    said: dict[str, object] = {"charge": charge} if charge else {}
    return said | ({"multiplicity": unpaired + 1} if unpaired else {})


def _left_open(drawn: Mol, whole: Mol, places: np.ndarray) -> list[str]:
    """Stereocentres and double bonds that it does not settle, and what became of them."""
    from rdkit import Chem

    found = Chem.FindPotentialStereo(drawn)
    open_ones = sum(one.specified == Chem.StereoSpecified.Unspecified for one in found)
    if not open_ones:
        return []
    built = Chem.Mol(whole)
    shape = Chem.Conformer(len(places))
    shape.SetPositions(np.ascontiguousarray(places))
    built.AddConformer(shape, assignId=True)
    Chem.AssignStereochemistryFrom3D(built)
    taken = Chem.MolToSmiles(Chem.RemoveHs(built))
    return [f"one of up to {2**open_ones} stereoisomers that its SMILES allows: {taken}"]


def _unusual(whole: Mol) -> list[str]:
    """What of a SMILES no model here tells apart."""
    doubts = []
    heavy = sorted({f"{a.GetIsotope()}{a.GetSymbol()}" for a in whole.GetAtoms() if a.GetIsotope()})
    if heavy:
        doubts.append(f"isotopes ({', '.join(heavy)}) count as their elements")
    unpaired = sum(atom.GetNumRadicalElectrons() for atom in whole.GetAtoms())
    if unpaired > 1:
        doubts.append(f"{unpaired} unpaired electrons were taken for parallel")
    return doubts


def _places(whole: Mol) -> tuple[np.ndarray, list[str]]:
    """(N,3) Angstrom, molecules of a text with dots beside each other, and what to say of them."""
    from rdkit import Chem

    rows: list[tuple[int, ...]] = []
    pieces = Chem.GetMolFrags(whole, asMols=True, sanitizeFrags=True, fragsMolAtomMapping=rows)
    places, doubts, end = np.empty((whole.GetNumAtoms(), 3)), [], -APART
    for piece, atoms in zip(pieces, rows, strict=True):
        built, said = _placed(piece)
        built[:, 0] += end + APART - built[:, 0].min()
        end = built[:, 0].max()
        places[list(atoms)] = built
        doubts += said
    if len(pieces) > 1:
        doubts.insert(0, f"{len(pieces)} molecules, put {APART:g} Angstrom apart")
    return places - places.mean(0), list(dict.fromkeys(doubts))


def _placed(piece: Mol) -> tuple[np.ndarray, list[str]]:
    """(n,3) places of one molecule around their centre, and doubts.

    Raises:
        ValueError: there are none.
    """
    from rdkit.Chem import rdDistGeom

    settings = rdDistGeom.ETKDGv3()
    settings.randomSeed, settings.maxIterations = SEED, TRIES
    if rdDistGeom.EmbedMolecule(piece, settings) < 0:
        settings.useRandomCoords = True
        if rdDistGeom.EmbedMolecule(piece, settings) < 0:
            raise ValueError("gets no places for its atoms from RDKit")
    doubts = _relaxed(piece) if piece.GetNumAtoms() > 1 else []
    places = np.array(piece.GetConformer().GetPositions())
    return places - places.mean(0), doubts


def _relaxed(piece: Mol) -> list[str]:
    """Moves the atoms to a minimum of a force field, and says what is odd about it.

    Raises:
        ValueError: no force field knows the atoms.
    """
    from rdkit.Chem import rdForceFieldHelpers as fields

    if fields.MMFFHasAllMoleculeParams(piece):
        doubts, left = [], fields.MMFFOptimizeMolecule(piece, "MMFF94", STEPS)
    elif fields.UFFHasAllMoleculeParams(piece):
        doubts = ["its geometry is UFF's, as MMFF94 has no parameters for it"]
        left = fields.UFFOptimizeMolecule(piece, STEPS)
    else:
        raise ValueError("has atoms that neither MMFF94 nor UFF knows")
    return [*doubts, "its geometry is no minimum yet"] if left else doubts
