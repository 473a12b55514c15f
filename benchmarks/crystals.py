"""Valence densities, energies, forces and stresses of crystals by CP2K (GPW, PBE, GTH, MOLOPT).

    python benchmarks/crystals.py STRUCTURES.extxyz OUT/ [--minutes M]

One gzipped cube and one JSON record a structure; what is there is not made again, and a structure
that failed keeps its reason in NAME.failed. k-points at 0.5/Angstrom, Fermi smearing of 600 K, no
spin. CP2K: the Debian packages cp2k and cp2k-data, a single thread.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

DATA = Path("/usr/share/cp2k")
HARTREE = 27.211386245988  # eV, CODATA 2018
BOHR = 0.529177210903  # Angstrom
GPA = 1 / 160.21766208  # eV/Angstrom^3

INPUT = """\
&GLOBAL
  PROJECT run
  RUN_TYPE ENERGY_FORCE
  PRINT_LEVEL LOW
&END GLOBAL
&FORCE_EVAL
  METHOD QUICKSTEP
  STRESS_TENSOR ANALYTICAL
  &PRINT
    &FORCES
    &END FORCES
    &STRESS_TENSOR
    &END STRESS_TENSOR
  &END PRINT
  &DFT
    BASIS_SET_FILE_NAME {data}/BASIS_MOLOPT_UZH
    POTENTIAL_FILE_NAME {data}/POTENTIAL_UZH
    &MGRID
      CUTOFF {cutoff}
      REL_CUTOFF {relative}
    &END MGRID
    &QS
      EPS_DEFAULT 1.0E-10
    &END QS
    &XC
      &XC_FUNCTIONAL PBE
      &END XC_FUNCTIONAL
    &END XC
    &KPOINTS
      SCHEME MONKHORST-PACK {mesh}
      PARALLEL_GROUP_SIZE -1
    &END KPOINTS
    &SCF
      SCF_GUESS ATOMIC
      EPS_SCF 1.0E-6
      MAX_SCF 100
      ADDED_MOS 20
      &DIAGONALIZATION
      &END DIAGONALIZATION
      &SMEAR
        METHOD FERMI_DIRAC
        ELECTRONIC_TEMPERATURE [K] 600
      &END SMEAR
      &MIXING
        METHOD BROYDEN_MIXING
        ALPHA 0.2
        NBROYDEN 8
      &END MIXING
    &END SCF
    &PRINT
      &E_DENSITY_CUBE
        STRIDE 2 2 2
      &END E_DENSITY_CUBE
    &END PRINT
  &END DFT
  &SUBSYS
    &CELL
{cell}
    &END CELL
    &COORD
{places}
    &END COORD
{kinds}
  &END SUBSYS
&END FORCE_EVAL
"""


def valence_bases() -> dict[str, tuple[int, str]]:
    """Valence electrons and basis set name an element: the one with the most electrons."""
    bases: dict[str, tuple[int, str]] = {}
    pattern = re.compile(r"^\s*([A-Z][a-z]?)\s+(DZVP-MOLOPT-PBE-GTH-q(\d+))\b", re.MULTILINE)
    for element, name, charge in pattern.findall((DATA / "BASIS_MOLOPT_UZH").read_text()):
        bases[element] = max(bases.get(element, (0, "")), (int(charge), name))
    return bases


def kpoint_mesh(atoms: Atoms, spacing: float) -> np.ndarray:
    """Divisions along the three reciprocal vectors, (3,), ``spacing`` 1/Angstrom apart."""
    lengths = 2 * np.pi * np.linalg.norm(atoms.cell.reciprocal(), axis=1)
    return np.maximum(1, np.ceil(lengths / spacing)).astype(int)


def cost(atoms: Atoms, spacing: float) -> float:
    """Expected effort in arbitrary units: cheap crystals first, so that every hour gives most."""
    bases = valence_bases()
    electrons = sum(bases[element][0] for element in atoms.get_chemical_symbols())
    return float(kpoint_mesh(atoms, spacing).prod()) * electrons**2


def cp2k_input(atoms: Atoms, cutoff: float, relative: float, spacing: float) -> str:
    """CP2K's input; ``spacing`` is that of the k-points, 1/Angstrom (2 pi included)."""
    mesh = kpoint_mesh(atoms, spacing)
    symbols, bases = atoms.get_chemical_symbols(), valence_bases()
    kinds = "\n".join(
        f"    &KIND {element}\n      BASIS_SET {bases[element][1]}\n"
        f"      POTENTIAL GTH-PBE-q{bases[element][0]}\n    &END KIND"
        for element in sorted(set(symbols))
    )
    rows = zip("ABC", np.asarray(atoms.cell), strict=True)
    return INPUT.format(
        data=DATA,
        cutoff=cutoff,
        relative=relative,
        mesh="{} {} {}".format(*mesh),
        cell="\n".join("      {} {:.10f} {:.10f} {:.10f}".format(k, *row) for k, row in rows),
        places="\n".join(
            "      {} {:.10f} {:.10f} {:.10f}".format(symbol, *place)
            for symbol, place in zip(symbols, atoms.positions, strict=True)
        ),
        kinds=kinds,
    )


def record(atoms: Atoms, printed: str) -> dict[str, object]:
    """Energy (eV), forces (eV/Angstrom) and stress (eV/Angstrom^3) from CP2K's output."""
    energy = re.findall(r"ENERGY\| Total FORCE_EVAL.*?:\s+(-?\d+\.\d+)", printed)[-1]
    block = printed.split("ATOMIC FORCES in [a.u.]")[-1]
    forces = re.findall(r"^\s+\d+\s+\d+\s+[A-Z][a-z]?((?:\s+-?\d+\.\d+){3})\s*$", block, re.M)
    stress = re.findall(r"STRESS\|\s+[xyz]((?:\s+-?\d\.\d+E[+-]\d+){3})", printed)[:3]
    if len(forces) != len(atoms):
        raise ValueError(f"{len(forces)} forces of {len(atoms)} atoms")
    cycles = re.findall(r"SCF run converged in\s+(\d+) steps", printed)[-1]
    return {
        "energy": float(energy) * HARTREE,
        "forces": [[float(x) * HARTREE / BOHR for x in row.split()] for row in forces],
        "stress": [[-float(x) * GPA for x in row.split()] for row in stress],
        "cycles": int(cycles),
    }


def compute(atoms: Atoms, cube: Path, options: argparse.Namespace) -> str:
    """Run one crystal in a folder of its own; its outcome in a line."""
    atoms = atoms.copy()
    atoms.wrap()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        text = cp2k_input(atoms, options.cutoff, options.relative, options.spacing)
        Path(folder, "input").write_text(text)
        command = ["cp2k.psmp", "-i", "input"]
        environment = dict(os.environ, OMP_NUM_THREADS="1")
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, env=environment,
                timeout=options.timeout,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return failed(cube, f"not done in {options.timeout:.0f} s")
        if "SCF run NOT converged" in done.stdout:
            return failed(cube, "the SCF did not converge in 100 cycles")
        if done.returncode or "SCF run converged" not in done.stdout:
            reason = [line.strip(" *") for line in done.stdout.splitlines() if "*" in line]
            return failed(cube, " ".join(" ".join(reason[-12:]).split())[:300])
        (density,) = Path(folder).glob("*.cube")
        values = record(atoms, done.stdout)
        values |= {"seconds": time.monotonic() - started, "info": dict(atoms.info)}
        cube.with_suffix("").with_suffix(".json").write_text(json.dumps(values, default=str))
        partial = cube.with_suffix(".partial")
        with density.open("rb") as source, gzip.open(partial, "wb", 6) as target:
            shutil.copyfileobj(source, target)
        partial.rename(cube)
    return f"{values['cycles']} cycles, {values['seconds']:.0f} s"


def failed(cube: Path, reason: str) -> str:
    cube.with_suffix("").with_suffix(".failed").write_text(reason + "\n")
    return "failed: " + reason


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("structures", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--cutoff", type=float, default=280, help="Ry")
    parser.add_argument("--relative", type=float, default=40, help="Ry")
    parser.add_argument("--spacing", type=float, default=0.5, help="of k-points, 1/Angstrom")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds a crystal")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * options.minutes
    numbered = list(enumerate(ase.io.read(options.structures, ":")))
    for number, atoms in sorted(numbered, key=lambda item: cost(item[1], options.spacing)):
        cube = options.output / f"{atoms.info.get('name', f'{number:05d}')}.cube.gz"
        if cube.exists() or cube.with_suffix("").with_suffix(".failed").exists():
            continue
        if time.monotonic() > until:
            break
        print(cube.name, atoms.get_chemical_formula(), compute(atoms, cube, options), flush=True)


if __name__ == "__main__":
    main()
