"""Whether values on a grid can be the electron density of their atoms.

Volumetric files hold potentials, localisation functions, orbitals and spin densities as well, and
few say which. Refused is what a title names as such, what is negative beyond the ringing of a
Fourier series, and what integrates to more or fewer electrons than the atoms can have.
"""

from __future__ import annotations

import re

import numpy as np

from neupol_cli.io.volumetric.grid import Volume

# Psi4 titles all its cubes with its name: "Property: Dt" is the density, Da and Db those of one
# spin, Ds their difference, Psi_.. orbitals. xtb's "spin/fo density" leaves small products out.
OTHERS = re.compile(
    r"(?<!pseudo)(?<!pseudo[ -])\bpotentials?\b|\besp\b|\belf\b|locali[sz]ation|"
    r"\bspin(?:[ _-]?|/fo )(?:density|polari[sz])|\b(?:alpha|beta)[ _-]?(?:spin[ _-]?)?density|"
    r"\borbitals?\b|\bwave[ _-]?functions?\b|\bldos\b|"
    r"\b(?:homo|lumo)\b|(?-i:\bMO\b)\s*[#:=]?\s*\d+|\b(?:difference|deformation)[ _-]?density|"
    r"\bdensity[ _-]?difference|\blaplacian\b|\breduced density gradient\b|\brdg\b|"
    r"\bkinetic energy density\b|\bpsi(?:_|\s+\d|\s*(?:\^|\*\*)\s*2)|\bproperty:\s*d[abs]\b",
    re.I,
)
# Ours: behind the name of a structure's file, or a command that names it; a record follows.
OURS = re.compile(r".*electron density by neupol.*|^neupol \d\S*: density .*")
NEGATIVE = 0.01  # of the sum of all magnitudes; ringing at coarse steps stays below a thousandth
DEEPEST = 0.05  # of the highest value
NOBLE = (0, 2, 10, 18, 36, 54, 86, 118)


def reason_against(volume: Volume) -> str | None:
    """Why these values are no density of these atoms; None where nothing speaks against it."""
    return _titled(volume) or _negative(volume) or _electrons(volume)


def _titled(volume: Volume) -> str | None:
    title = str(volume.notes.get("titles", volume.notes.get("title", "")))
    match = OTHERS.search(OURS.sub("", title))
    return f"its title says '{match[0]}'" if match else None


def _negative(volume: Volume) -> str | None:
    values = volume.values
    lowest, highest = float(values.min()), float(values.max())
    if lowest >= 0.0:
        return None
    below = -float(np.minimum(values, 0.0).sum(dtype=np.float64))
    share = below / max(float(np.abs(values).sum(dtype=np.float64)), 1e-300)
    if share > NEGATIVE or lowest < -DEEPEST * max(highest, 0.0):
        return f"it reaches {lowest:.3g} e/Angstrom^3, {100 * share:.2g} % of it is negative"
    return None


def _electrons(volume: Volume) -> str | None:
    electrons, numbers = volume.electrons, volume.atoms.numbers
    low, high = possible_electrons(numbers)
    if not low <= electrons <= high:
        fewest, protons = int(sum(map(fewest_valence, numbers))), int(numbers.sum())
        return (
            f"its sum is {electrons:.3f} electrons where the atoms have {fewest} (valence) to "
            f"{protons} (all); cubes are in e/bohr^3, a CHGCAR is density x volume"
        )
    return None


def possible_electrons(numbers: np.ndarray) -> tuple[float, float]:
    """The fewest and the most that the sum over a grid of atoms (A,) may be: ions, coarse grids."""
    fewest, protons = int(sum(map(fewest_valence, numbers))), int(numbers.sum())
    return max(0.4 * fewest, 0.75 * fewest - 2.0), 1.1 * protons + 2


def fewest_valence(number: int) -> int:
    """Electrons outside the closed shells of an element: what any pseudopotential leaves."""
    core = max(noble for noble in NOBLE if noble < number)
    outside = int(number) - core
    # Filled d and f shells may be in the core, too: Zn 2, Ga 3, Hf 4 ...
    full_d = core in (18, 36) and outside > 12
    full_f = core in (54, 86) and outside > 16
    outside -= 10 if full_d else 14 if full_f else 0
    return outside - 10 if full_f and outside > 12 else outside


def all_electron(volume: Volume, expected: float) -> bool:
    """Whether a density is of all electrons where ``expected`` counts the valence ones only."""
    protons = float(volume.atoms.numbers.sum())
    return abs(volume.electrons - protons) < abs(volume.electrons - expected) and (
        abs(protons - expected) > 0.5
    )
