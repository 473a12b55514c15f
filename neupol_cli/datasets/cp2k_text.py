"""CP2K's words: its input for one structure, and the numbers and complaints of its output.

Gaussian and plane waves, PBE, GTH pseudopotentials and MOLOPT basis sets as made for them (the
"UZH" files of CP2K's data).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from ase import Atoms

from neupol_cli.errors import InputError
from neupol_cli.io.units import BOHR, HARTREE

BASES, POTENTIALS = "BASIS_MOLOPT_UZH", "POTENTIAL_UZH"  # files of CP2K's data
BASIS = "DZVP-MOLOPT-PBE-GTH"
POTENTIAL = "GTH-PBE"
ATOM_BOX = 10.0  # Angstrom, around a free atom

INPUT = """\
&GLOBAL
  PROJECT run
  RUN_TYPE {run}
  PRINT_LEVEL LOW
&END GLOBAL
&FORCE_EVAL
  METHOD QUICKSTEP
  &PRINT
    &FORCES
    &END FORCES
  &END PRINT
  &DFT
    BASIS_SET_FILE_NAME {bases}
    POTENTIAL_FILE_NAME {potentials}
    &MGRID
      CUTOFF {cutoff}
      REL_CUTOFF {relative}
    &END MGRID
    &QS
      EPS_DEFAULT 1.0E-8
    &END QS
    &XC
      &XC_FUNCTIONAL PBE
      &END XC_FUNCTIONAL
    &END XC
{surroundings}
    &SCF
      SCF_GUESS ATOMIC
      EPS_SCF 1.0E-6
      MAX_SCF {cycles}
{scf}
    &END SCF
{output}
  &END DFT
  &SUBSYS
    &CELL
{cell}
      PERIODIC {periodic}
    &END CELL
    &COORD
{places}
    &END COORD
{kinds}
  &END SUBSYS
&END FORCE_EVAL
"""
MESH = """\
    &KPOINTS
      SCHEME MONKHORST-PACK {} {} {}
      PARALLEL_GROUP_SIZE -1
    &END KPOINTS"""
MIXED = """\
      &DIAGONALIZATION
      &END DIAGONALIZATION
      &MIXING
        METHOD BROYDEN_MIXING
        ALPHA 0.2
        NBROYDEN 8
      &END MIXING"""
SMEARED = """\
      ADDED_MOS 20
      &SMEAR
        METHOD FERMI_DIRAC
        ELECTRONIC_TEMPERATURE [K] {kelvin}
      &END SMEAR"""
ISOLATED = """\
    UKS
    MULTIPLICITY {multiplicity}
    &POISSON
      PERIODIC NONE
      POISSON_SOLVER WAVELET
    &END POISSON"""
CUBE = """\
    &PRINT
      &E_DENSITY_CUBE
        STRIDE 1 1 1
      &END E_DENSITY_CUBE
    &END PRINT"""


@dataclass(frozen=True)
class Settings:
    """How finely CP2K looks.

    Attributes:
        cutoff, relative: plane waves of the density, Ry.
        kspacing: between k-points, 1/Angstrom (2 pi included).
        smearing: electronic temperature, K; 0: none.
        spacing: largest step of the grid that is kept, Angstrom.
    """

    cutoff: float = 280.0
    relative: float = 40.0
    kspacing: float = 0.5
    smearing: float = 600.0
    spacing: float = 0.2

    def __str__(self) -> str:
        warm = f", {self.smearing:g} K" if self.smearing else ""
        return (
            f"PBE / {POTENTIAL} / {BASIS}, {self.cutoff:g} Ry, "
            f"k-points {self.kspacing:g}/Angstrom{warm}"
        )


def valence_of(bases: str, potentials: str) -> dict[str, int]:
    """Valence electrons by symbol: the most for which there are a basis set and a potential."""
    known = set(re.findall(rf"^\s*([A-Z][a-z]?)\s+{POTENTIAL}-q(\d+)\b", potentials, re.M))
    found: dict[str, int] = {}
    for symbol, charge in re.findall(rf"^\s*([A-Z][a-z]?)\s+{BASIS}-q(\d+)\b", bases, re.M):
        if (symbol, charge) in known:
            found[symbol] = max(found.get(symbol, 0), int(charge))
    return found


def crystal_input(
    atoms: Atoms, settings: Settings, valence: Mapping[str, int], density: bool
) -> str:
    """Energy and forces of a cell, no spin, and a cube of its density where it is wanted."""
    smeared = SMEARED.format(kelvin=f"{settings.smearing:g}") + "\n" if settings.smearing else ""
    return _filled(
        atoms,
        settings,
        valence,
        run="ENERGY_FORCE",
        surroundings=MESH.format(*kpoint_mesh(atoms, settings.kspacing)),
        cycles=100,
        scf=smeared + MIXED,
        output=CUBE if density else "",
        periodic="XYZ",
    )


def atom_input(
    number: int, multiplicity: int, settings: Settings, valence: Mapping[str, int]
) -> str:
    """The energy of a free atom, spin-polarised."""
    atom = Atoms([number], cell=[ATOM_BOX] * 3)
    atom.center()
    return _filled(
        atom,
        settings,
        valence,
        run="ENERGY",
        surroundings=ISOLATED.format(multiplicity=multiplicity),
        cycles=200,
        scf=MIXED,
        output="",
        periodic="NONE",
    )


def _filled(
    atoms: Atoms,
    settings: Settings,
    valence: Mapping[str, int],
    **parts: str | int,
) -> str:
    symbols = atoms.get_chemical_symbols()
    rows = zip("ABC", atoms.cell.array, strict=True)
    places = zip(symbols, atoms.positions, strict=True)
    return INPUT.format(
        bases=BASES,
        potentials=POTENTIALS,
        cutoff=settings.cutoff,
        relative=settings.relative,
        cell="\n".join("      {} {:.10f} {:.10f} {:.10f}".format(k, *row) for k, row in rows),
        places="\n".join("      {} {:.10f} {:.10f} {:.10f}".format(s, *r) for s, r in places),
        kinds="\n".join(_kind(symbol, valence[symbol]) for symbol in sorted(set(symbols))),
        **parts,
    )


def _kind(symbol: str, electrons: int) -> str:
    return (
        f"    &KIND {symbol}\n      BASIS_SET {BASIS}-q{electrons}\n"
        f"      POTENTIAL {POTENTIAL}-q{electrons}\n    &END KIND"
    )


def kpoint_mesh(atoms: Atoms, spacing: float) -> tuple[int, ...]:
    """Divisions along three reciprocal vectors, ``spacing`` 1/Angstrom (2 pi included) apart."""
    lengths = 2 * np.pi * np.linalg.norm(atoms.cell.reciprocal(), axis=1)
    return tuple(int(n) for n in np.maximum(1, np.ceil(lengths / spacing)))


def converged(printed: str) -> bool | None:
    """Whether an output says that its SCF converged; None where it says neither."""
    if "SCF run NOT converged" in printed:
        return False
    return True if "SCF run converged" in printed else None


def energy(printed: str, label: str) -> float:
    """The total energy, eV; where electrons are warm the free one, whose derivatives forces are.

    Raises:
        InputError: it is not there.
    """
    found = re.findall(r"ENERGY\| Total FORCE_EVAL.*?\s(-?\d+\.\d+)\s*$", printed, re.M)
    if not found:
        raise InputError(f"{label}: CP2K's output has no total energy")
    return float(found[-1]) * HARTREE


# A row of three components an atom: as CP2K wrote it until 2024, and since.
ROWS = (
    r"^\s+\d+\s+\d+\s+[A-Z][a-z]?((?:\s+-?\d+\.\d+){3})\s*$",
    r"^\s*FORCES\|\s+\d+((?:\s+-?\d+\.\d+(?:E[+-]\d+)?){3})",
)


def forces(printed: str, atoms: Atoms, label: str) -> np.ndarray:
    """(A, 3) eV/Angstrom. InputError if they are not those of all atoms."""
    start = max(printed.rfind("ATOMIC FORCES in [a.u.]"), printed.rfind("FORCES| Atomic forces"))
    rows = [row for form in ROWS for row in re.findall(form, printed[max(start, 0) :], re.M)]
    if start < 0 or len(rows) != len(atoms):
        raise InputError(f"{label}: CP2K's output has {len(rows)} forces of {len(atoms)} atoms")
    return np.array([row.split() for row in rows], float) * (HARTREE / BOHR)


def complaint(printed: str) -> str:
    """What the box of an abort says, without its picture; empty if there is none."""
    _, found, rest = printed.rpartition("[ABORT]")
    lines = takewhile(bool, (line.strip(" *") for line in rest.splitlines()[1:]))
    words = re.sub(r"\\___/|O/\||/\| \||/ \\", " ", " ".join(lines))
    return " ".join(words.replace(" | ", " ").split()) if found else ""
