"""SCFs that begin from the model's density beside those that begin from PySCF's own guess.

    neupol data density qm9_small_pbe_gth.tar -o density.h5
    python benchmarks/scf_start.py density.h5 --count 50 --whole 4 \
        --also examples/{glycine,aspirin}.xyz | tee benchmarks/results/scf_start.txt

Cycles and processor seconds, of ours with the guess included, at PySCF's own convergence (1e-9
Hartree). The guess has two Fock matrices on a coarse grid, which are in its seconds and are no
cycles. Both may extrapolate from the first Fock matrix (diis_start_cycle = 0). "off" is how
far the guess' energy is above the end; PySCF's guess is of no orbitals, and may be below.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from pyscf import dft, gto

from neupol_cli import registry, threads
from neupol_cli.io import structures, volumetric
from neupol_cli.models.density.model import DensityModel
from neupol_cli.scf_start import initial_density_matrix

LEVELS = {
    "gth-dzvp": {"basis": "gth-dzvp", "pseudo": "gth-pbe"},
    "def2-svp": {"basis": "def2-svp"},
}
AGREE = 1e-8  # Hartree


@dataclass(frozen=True)
class Ending:
    """Where an SCF came to, in how many cycles and processor seconds, those of its guess apart."""

    energy: float
    cycles: int
    seconds: float
    guess: float
    above: float


def method(atoms: Atoms, level: str, xc: str) -> Any:
    places = list(zip(atoms.get_chemical_symbols(), atoms.positions.tolist(), strict=True))
    mf = dft.RKS(gto.M(atom=places, verbose=0, **LEVELS[level]), xc=xc).density_fit()
    mf.diis_start_cycle = 0
    return mf


def solved(atoms: Atoms, level: str, xc: str, model: DensityModel | None) -> Ending:
    """From the model's density, or without one from PySCF's guess."""
    mf = method(atoms, level, xc)
    start = time.process_time()
    matrix = mf.get_init_guess() if model is None else initial_density_matrix(mf, model)
    middle = time.process_time()
    energy = mf.kernel(dm0=matrix)
    end = time.process_time()
    if not mf.converged:
        raise SystemExit(f"{atoms.symbols} {level} {xc}: not converged")
    above = mf.energy_tot(matrix) - energy
    return Ending(energy, mf.cycles, end - start, middle - start, above)


def held_out(path: Path, split: str) -> Iterator[Atoms]:
    for entry in volumetric.entries(path):
        if entry.split == split:
            yield entry.volume.atoms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--also", nargs="*", default=[], help="files or SMILES")
    parser.add_argument("--model", default="density")
    parser.add_argument("--split", default="test")
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--whole", type=int, help="so many at all levels, the others in turns")
    parser.add_argument("--xc", default="pbe,b3lyp,tpss")
    options = parser.parse_args()
    threads.take(1, None)
    model = registry.load_density(options.model)
    molecules = list(islice(held_out(options.data, options.split), options.count))
    also = [atoms for _, atoms in structures.read(options.also)]
    levels = list(product(LEVELS, options.xc.split(",")))
    whole = options.count if options.whole is None else options.whole
    print(f"{options.count} molecules of '{options.split}'", *options.also)
    print("                            cycles         seconds                off, Hartree")
    print("molecule  basis     xc      minao density  minao  density (guess)  minao    density")
    totals: dict[tuple[str, str], list[np.ndarray]] = {pair: [] for pair in levels}
    for k, atoms in enumerate([*molecules, *also]):
        in_turn = whole <= k < len(molecules)
        for level, xc in levels[k % len(levels) :][:1] if in_turn else levels:
            pair = [solved(atoms, level, xc, start) for start in (None, model)]
            _told(f"{atoms.get_chemical_formula():8}  {level}  {xc:6}", pair)
            totals[level, xc].append(np.array([(end.cycles, end.seconds) for end in pair]))
    print("\nin all")
    for (level, xc), rows in totals.items():
        _summed(f"          {level}  {xc:6}", np.sum(rows, axis=0))
    _summed("all", np.sum([row for rows in totals.values() for row in rows], axis=0))


def _told(name: str, pair: list[Ending]) -> None:
    without, ours = pair
    if abs(without.energy - ours.energy) > AGREE:
        raise SystemExit(f"{name}: energies are {ours.energy - without.energy:.1e} Hartree apart")
    print(
        f"{name}  {without.cycles:5} {ours.cycles:7}  {without.seconds:5.1f}  {ours.seconds:7.1f} "
        f"({ours.guess:5.2f})  {without.above:.1e}  {ours.above:.1e}",
        flush=True,
    )


def _summed(name: str, sums: np.ndarray) -> None:
    """A line of cycles and seconds (2, 2) of both guesses."""
    (cycles, seconds), (fewer, less) = sums
    print(
        f"{name:26}  {cycles:5.0f} {fewer:7.0f}  {seconds:5.1f}  {less:7.1f}  "
        f"cycles {100 * (fewer / cycles - 1):+.0f} %, seconds {100 * (less / seconds - 1):+.0f} %"
    )


if __name__ == "__main__":
    main()
