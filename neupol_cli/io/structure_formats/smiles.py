"""A molecule from its SMILES, through RDKit (extra [rdkit]).

Hydrogens are added, and each molecule of a text with dots is placed (embedding.py). Formal charges
make ``charge``, unpaired electrons ``multiplicity``. What a SMILES leaves open (stereocentres, how
molecules lie together) is chosen and doubted.
Formats: Daylight, SMILES theory manual; geometry: Wang, Witek, Landrum, Riniker 2020 (ETKDGv3).
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ase import Atoms

from neupol_cli.errors import UsageError
from neupol_cli.io.structure_formats.embedding import Conformers, placed

if TYPE_CHECKING:
    from rdkit.Chem import Mol

MOST = 300  # atoms: they take some ten seconds, and the time grows with the square
LONGEST = 10 * MOST  # characters
APART = 4.0  # Angstrom between the molecules of a text with dots
FARTHER_OFF = "models of better ones, as the bundled models are, are farther off than they say"
NOTE = f"geometries of SMILES are a force field's, one conformer each: {FARTHER_OFF}"
CONFORMERS_NOTE = f"geometries of SMILES are a force field's: {FARTHER_OFF}"

_ATOM = r"(?:\[[^\[\]\s]{1,40}\]|Br|Cl|[BCNOPSFIbcnops*])"
_OTHER = r"(?:[-=#$:~/\\.()<>]|%\d\d|%\(\d{1,5}\)|\d)"
_SMILES = re.compile(rf"{_ATOM}(?:{_ATOM}|{_OTHER})*")
_DATIVE = re.compile(r"->|<-")


class Molecule(NamedTuple):
    """
    Attributes:
        atoms: with what the SMILES says of them as info; Angstrom.
        doubts: what it leaves open.
        conformers: where several were asked for; the atoms are where the first has them.
    """

    atoms: Atoms
    doubts: tuple[str, ...]
    conformers: Conformers | None = None


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


def molecule(word: str, conformers: int | None = None) -> Molecule:
    """Atoms and places for a SMILES.

    Args:
        word: the SMILES.
        conformers: of how many geometries those that differ are kept; None: there is one.

    Raises:
        ValueError: why there are none, as the rest of a sentence: it is no SMILES, no molecule, or
            cannot be built.
    """
    try:
        return _molecule(word, conformers)
    except RuntimeError as error:  # conditions within RDKit
        raise ValueError(f"is too much for RDKit: {' '.join(str(error).split())[:200]}") from error


def _molecule(word: str, conformers: int | None) -> Molecule:
    from rdkit import Chem

    drawn = parsed(word)
    whole = Chem.AddHs(drawn)
    if whole.GetNumAtoms() > MOST:
        raise ValueError(f"has {whole.GetNumAtoms()} atoms; at most {MOST} are placed by RDKit")
    numbers = [atom.GetAtomicNum() for atom in whole.GetAtoms()]
    made = None if conformers is None else _conformers(whole, conformers)
    places, doubts = _places(whole) if made is None else (made.positions[0], _of_field(made))
    atoms = Atoms(numbers, places, info=_said(whole) | {"smiles": word})
    open_ones = _left_open(drawn, whole, places)
    return Molecule(atoms, (*open_ones, *_unusual(whole), *doubts), made)


def _conformers(whole: Mol, count: int) -> Conformers:
    """Of a text without dots: nothing says how molecules would lie beside each other."""
    from rdkit import Chem

    pieces = len(Chem.GetMolFrags(whole))
    if pieces > 1:
        raise ValueError(f"is {pieces} molecules; conformers are made of one")
    return placed(Chem.Mol(whole), count)


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
        made = placed(piece)
        built = made.positions[0]
        built[:, 0] += end + APART - built[:, 0].min()
        end = built[:, 0].max()
        places[list(atoms)] = built
        doubts += _of_field(made)
    if len(pieces) > 1:
        doubts.insert(0, f"{len(pieces)} molecules, put {APART:g} Angstrom apart")
    return places - places.mean(0), list(dict.fromkeys(doubts))


def _of_field(made: Conformers) -> list[str]:
    """What is odd about a force field's geometries."""
    doubts = [f"its geometry is {made.field}'s, as MMFF94 has no parameters for it"]
    unfinished = [] if made.is_minimum else ["its geometry is no minimum yet"]
    return [*(doubts if made.field != "MMFF94" else []), *unfinished]
