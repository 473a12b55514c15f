"""Reasons not to trust an answer: what a structure, or the answer itself, has that no training
structure had.

Each is a few words for a line on stderr; none at all is what an answer wants.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from neupol_cli.domain.bonds import Bonds, Range
from neupol_cli.domain.facts import Facts
from neupol_cli.errors import InputError
from neupol_cli.io.charges import electrons, multiplicity, total_charge
from neupol_cli.io.units import factor
from neupol_cli.targets import target

# How far beyond its range a length may be, Angstrom: for a bond, and for two that are not bonded.
BOND, CONTACT = 0.03, 0.1
UNKNOWN = 2.0  # Angstrom: where a contact begins, of elements that training had not that near
WIDER = 0.05  # of a target's range, on either side
ELECTRONS = 0.005  # of all, that a density may miss; good ones miss a tenth of that
UNPAIRED = 0.1  # electrons that a spin density may miss
DISTANT = 8.0  # Angstrom between parts of which neither feels the other
SUM_ENERGY, SUM = 0.1, 0.02  # eV, and a share, that a whole may miss the sum of its parts
FORCE = 100.0  # eV/Angstrom: more is felt only by atoms that no structure has so near
SHOWN = 3  # reasons that a line has room for


@dataclass(frozen=True)
class Identity:
    """A sum of targets (eV) whose value is known, and how far a good answer may miss it."""

    terms: dict[str, int]
    value: float
    tolerance: float

    def miss(self, values: Mapping[str, float]) -> float | None:
        """How far off the values are; None where a target is missing or it is near enough."""
        if not set(self.terms) <= set(values):
            return None
        apart = sum(sign * values[key] for key, sign in self.terms.items()) - self.value
        return apart if abs(apart) > self.tolerance else None


RT = 8.617333262e-5 * 298.15  # eV, H - U of an ideal gas
IDENTITIES = {
    "H - U": Identity({"H": 1, "U": -1}, RT, 0.25),
    "gap - (lumo - homo)": Identity({"gap": 1, "lumo": -1, "homo": 1}, 0.0, 0.5),
}


def of_charge(facts: Facts, atoms: Atoms, label: str = "") -> list[str]:
    """A charge or multiplicity that is stated and that no training structure had.

    Raises:
        InputError: it is not a whole number.
    """
    charge, spin = total_charge(atoms, label), multiplicity(atoms, label)
    reasons = []
    if charge is not None and charge not in facts.charges:
        known = ", ".join(f"{q:+d}" if q else "0" for q in facts.charges)
        reasons.append(f"has charge {charge:+d}, the model was trained on {known}")
    usual = sorted({1, *facts.multiplicities, *([2] if facts.odd else [])})
    if spin is not None and spin not in usual:
        known = ", ".join(map(str, usual))
        reasons.append(f"has multiplicity {spin}, the model was trained on {known}")
    return reasons


def of_structure(facts: Facts, atoms: Atoms, bonds: Bonds) -> list[str]:
    """What a structure with these bonds has that no training structure had."""
    reasons = [*of_charge(facts, atoms), *_overall(facts, atoms, bonds), *_lengths(facts, bonds)]
    strange = [s for s in dict.fromkeys(bonds.surroundings()) if not facts.knows(s)]
    return [*reasons, *(f"no training structure has an atom {name}" for name in strange)]


def _overall(facts: Facts, atoms: Atoms, bonds: Bonds) -> Iterator[str]:
    periodic = bool(atoms.pbc.any())
    if not (facts.periodic if periodic else facts.molecules):
        yield "periodic" if periodic else "not periodic"
    elif not periodic:  # a larger cell of the same crystal is the same crystal
        yield from _sizes(facts, atoms)
    if not facts.odd and electrons(atoms, total_charge(atoms)) % 2:
        yield "an odd number of electrons"
    parts = len(bonds.pieces)
    if parts > facts.parts:
        yield f"in {parts} parts that no bond joins"


def _sizes(facts: Facts, atoms: Atoms) -> Iterator[str]:
    heavy = int((atoms.numbers > 1).sum())
    for count, what, (fewest, most) in (
        (len(atoms), "atoms", facts.atoms),
        (heavy, "atoms besides hydrogen", facts.heavy),
    ):
        if not fewest <= count <= most:
            yield f"{count} {what}, where training structures had {fewest} to {most}"


def _lengths(facts: Facts, bonds: Bonds) -> Iterator[str]:
    """Bonds outside their range, and contacts nearer than ever; the farthest out comes first."""
    found = [*_stretched(facts, bonds.bonds()), *_close(facts, bonds.contacts())]
    yield from (text for _, text in sorted(found, reverse=True))


def _stretched(facts: Facts, bonds: Mapping[str, Range]) -> Iterator[tuple[float, str]]:
    """How far beyond its range, Angstrom, and what to say of it."""
    for name, (shortest, longest) in bonds.items():
        if name not in facts.bonds:
            continue  # its ends' surroundings are unknown then, too
        low, high = facts.bonds[name]
        beyond = max(low - shortest, longest - high)
        length = shortest if low - shortest > longest - high else longest
        if beyond > BOND:
            said = f"a bond {name} of {length:.2f} Angstrom"
            yield beyond, f"{said} (training: {low:.2f} to {high:.2f})"


def _close(facts: Facts, contacts: Mapping[str, float]) -> Iterator[tuple[float, str]]:
    for name, length in contacts.items():
        nearest = facts.contacts.get(name, UNKNOWN)
        if nearest - length > CONTACT:
            said = f"{name} only {length:.2f} Angstrom apart (training: {nearest:.2f})"
            yield nearest - length, said


def of_answer(facts: Facts, atoms: Atoms, values: Mapping[str, float]) -> list[str]:
    """What numbers no training structure had, or no molecule can have.

    Args:
        facts: of the training data.
        atoms: the structure.
        values: target -> the answer, in the unit of the training data.
    """
    return [*_impossible(values), *_out_of_range(facts, atoms, values)]


def _impossible(values: Mapping[str, float]) -> Iterator[str]:
    for name, value in values.items():
        if target(name).positive and value < 0:
            yield f"{name} = {value:.3g} is negative"
    for name, identity in IDENTITIES.items():
        miss = identity.miss(values)
        if miss is not None:
            yield f"{name} is {identity.value + miss:.3f} eV, and should be {identity.value:.3f}"


def _out_of_range(facts: Facts, atoms: Atoms, values: Mapping[str, float]) -> Iterator[str]:
    for name, value in values.items():
        if name not in facts.ranges:
            continue
        low, high = facts.ranges[name]
        extensive = target(name).extensive
        number = value / len(atoms) if extensive else value
        margin = WIDER * (high - low)
        if not low - margin <= number <= high + margin:
            places = _places(high - low)
            shown = f"{name} = {number:.{places}f}{' an atom' if extensive else ''}"
            had = f"{low:.{places}f} to {high:.{places}f}"
            yield f"{shown} is outside of what training structures had ({had})"


def _places(width: float) -> int:
    """So many decimals that hundredths of a range are seen."""
    return max(0, 2 - math.floor(math.log10(width))) if width > 0 else 4


def of_forces(forces: np.ndarray, unit: str) -> list[str]:
    """A force (n, 3) that nothing near a minimum has, as where a network has a singularity."""
    largest = np.linalg.norm(forces, axis=1).max() * factor(unit, "eV/Angstrom")
    return [f"a force of {largest:,.0f} eV/Angstrom"] if largest > FORCE else []


def distant_parts(atoms: Atoms, bonds: Bonds) -> list[Atoms]:
    """The pieces of a structure that are too far from each other to feel it; none where they do, or
    where it is in one piece."""
    pieces = [] if atoms.pbc.any() else bonds.pieces
    if len(pieces) < 2:
        return []
    from scipy.spatial import cKDTree

    for piece in pieces:
        others = np.delete(atoms.positions, piece, 0)
        if len(others) and cKDTree(others).query(atoms.positions[piece])[0].min() < DISTANT:
            return []
    return [atoms[piece] for piece in pieces]


def of_parts(
    whole: Mapping[str, float], parts: Sequence[Mapping[str, float]], units: Mapping[str, str]
) -> list[str]:
    """Extensive answers for a whole that are not the sums of those for its distant parts.

    Args:
        whole: target -> the answer, in the unit of the training data.
        parts: the same for each part.
        units: of the targets.
    """
    reasons = []
    for name, value in whole.items():
        if target(name).extensive:
            total = sum(part[name] for part in parts)
            allowed = SUM_ENERGY if units[name] == "eV" else SUM * abs(total)
            if abs(value - total) > allowed:
                reasons.append(f"{name} is {value - total:+.3g} off the sum of its distant parts")
    return reasons


def of_electrons(electrons: float, expected: float | None, grid_error: float) -> list[str]:
    """Electrons that a density has too many or too few of.

    Args:
        electrons: its integral.
        expected: of the structure with its charge; None where nobody knows.
        grid_error: what the sum over the grid may be off.
    """
    if expected is None or abs(electrons - expected) <= ELECTRONS * expected + 2 * grid_error:
        return []
    return [f"{electrons:.3f} of {expected:g} electrons"]


def of_spin(unpaired: float | None, grid_error: float, atoms: Atoms) -> list[str]:
    """Unpaired electrons that a molecule's spin density has too many or too few of.

    Its structure says how many there should be, or else whether they are odd; a network sees
    neither charge nor multiplicity.

    Args:
        unpaired: the integral of up minus down; None of a density without spin.
        grid_error: what the sum over the grid may be off.
        atoms: the structure.
    """
    if unpaired is None or atoms.pbc.any():
        return []
    stated = multiplicity(atoms)
    if stated is not None:
        expected, said = stated - 1, f"multiplicity {stated} has {stated - 1}"
    else:
        odd = electrons(atoms, total_charge(atoms)) % 2
        expected = max(odd, odd + 2 * round((unpaired - odd) / 2))
        said = f"there are an {'odd' if odd else 'even'} number"
    if abs(unpaired - expected) <= UNPAIRED + 2 * grid_error:
        return []
    return [f"{unpaired:.2f} unpaired electrons, and {said}"]


def line(reasons: Sequence[str]) -> str:
    """The reasons of a structure in one line."""
    more = f"; and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
    return "; ".join(reasons[:SHOWN]) + more


def told(label: str, reasons: Sequence[str] | None, strict: bool, worst: str | None = None) -> None:
    """Says a structure's doubts on stderr, in one line, and around which atom they are worst.

    Raises:
        InputError: it is the same line, if ``strict``.
    """
    if not reasons:
        return
    where = "" if worst is None else f"; most of all around {worst}"
    text = f"{label}: doubtful: {line(reasons)}{where}"
    if strict:
        raise InputError(text)
    print(f"neupol: {text}", file=sys.stderr)
