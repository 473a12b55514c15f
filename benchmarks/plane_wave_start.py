"""SCFs of pw.x that begin from the model's density, beside those from its own start and from atoms.

    apt-get install quantum-espresso
    neupol data density qm9_small_pbe_gth.tar -o density.h5
    python benchmarks/plane_wave_start.py density.h5 --also examples/{water,glycine}.xyz \\
        examples/{benzene.xyz,{urea,dry_ice}.poscar} | tee benchmarks/results/plane_wave_start.txt

Molecules in boxes with PBE and GTH pseudopotentials, which pw.x reads; their files have no atomic
densities, and its own start is far off. "atoms": the sum of free atoms with the same
pseudopotentials, which a file with atomic densities would begin from. Both others begin from a
charge-density.dat of `neupol density`'s format, scaled to the number of electrons. Cycles and
processor seconds, of ours with the guess, model loaded; energies are compared.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers
from ase.io import read
from pyscf.gto import basis

from neupol_cli import registry, threads
from neupol_cli.charges import free_atoms, pieces
from neupol_cli.density import measures
from neupol_cli.density.on_grid import predict
from neupol_cli.io import volumetric
from neupol_cli.io.units import BOHR
from neupol_cli.io.volumetric import Grid, Volume, by_counts
from neupol_cli.io.volumetric.espresso import NAME
from neupol_cli.models.density.model import DensityModel

STARTS = "pw.x", "atoms", "model"
AGREE = 1e-8  # Hartree
RYDBERG = 0.5  # Hartree
TIGHT = 1e-9  # Ry, of pw.x's own estimate
MEMORY = 1_000_000_000


@dataclass(frozen=True)
class Ending:
    """Where an SCF came to (Hartree), in how many cycles and processor seconds."""

    energy: float
    cycles: int
    seconds: float


def pseudopotential(symbol: str) -> str:
    """GTH's for PBE in the form of ABINIT's HGH files, which pw.x reads.

    PySCF has the parameters: electrons; r_loc and its coefficients; radius and matrix of each l.
    """
    electrons, radius, _, local, _, *channels = basis.load_pseudo("gth-pbe", symbol)
    width, size, matrix = channels[0] if channels else (radius, 0, [])
    if size > 1 or any(higher[1] for higher in channels[1:]):
        raise SystemExit(f"{symbol}: only one projector, with l = 0, is written here")
    return "\n".join(
        [
            f"GTH-PBE {symbol}",
            f"{atomic_numbers[symbol]} {sum(electrons)} 010101 zatom zion pspdat",
            "10 11 0 0 2001 0 pspcod pspxc lmax lloc mmax r2well",
            f"{radius} {len(local)} {' '.join(map(str, local))}",
            "1",
            f"{width} {size} {' '.join(str(row[0]) for row in matrix)}\n",
        ]
    )


def pw_input(atoms: Atoms, cutoff: float, from_file: bool) -> str:
    """All defaults but the threshold, room for Davidson's vectors and where it begins from."""
    symbols = sorted(set(atoms.get_chemical_symbols()))
    start = "startingpot = 'file', diago_thr_init = 1e-4" if from_file else ""
    species = [f"{name} {atomic_masses[atomic_numbers[name]]} {name}.gth" for name in symbols]
    cell = [" ".join(f"{x:.12f}" for x in row) for row in atoms.cell.array]
    places = [
        f"{name} {x:.12f} {y:.12f} {z:.12f}"
        for name, (x, y, z) in zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)
    ]
    head = f"""&control
 prefix = 'x', outdir = '.', pseudo_dir = '.', disk_io = 'low'
/
&system
 ibrav = 0, nat = {len(atoms)}, ntyp = {len(symbols)}, ecutwfc = {2 * cutoff}, input_dft = 'PBE'
 nosym = .true.
/
&electrons
 conv_thr = {TIGHT}, diago_david_ndim = 4, electron_maxstep = 60
 {start}
/
"""
    cards = ["ATOMIC_SPECIES", *species, "CELL_PARAMETERS angstrom", *cell]
    return head + "\n".join([*cards, "ATOMIC_POSITIONS angstrom", *places, "K_POINTS gamma"]) + "\n"


def solved(folder: Path, atoms: Atoms, cutoff: float, start: Volume | None) -> Ending:
    """One run of pw.x, in a folder of its own."""
    (folder / "x.save").mkdir(parents=True)
    for symbol in set(atoms.get_chemical_symbols()):
        (folder / f"{symbol}.gth").write_text(pseudopotential(symbol))
    if start is not None:
        volumetric.write(folder / "x.save" / NAME, start, "")
    (folder / "x.in").write_text(pw_input(atoms, cutoff, start is not None))
    call = ["pw.x", "-in", "x.in"]
    text = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=True).stdout
    cycles = re.search(r"convergence has been achieved in\s+(\d+)", text)
    energy = re.search(r"^!\s+total energy\s+=\s+(\S+) Ry", text, re.M)
    seconds = re.search(r"PWSCF\s+:\s+(?:(\d+)m)?\s*([\d.]+)s CPU", text)
    if not (cycles and energy and seconds):
        raise SystemExit(f"{atoms.symbols}: pw.x did not converge:\n{text[-2000:]}")
    taken = 60 * int(seconds[1] or 0) + float(seconds[2])
    return Ending(float(energy[1]) * RYDBERG, int(cycles[1]), taken)


def grid_of(atoms: Atoms, cutoff: float) -> Grid:
    """One that holds all plane waves of a density: up to 2 sqrt(2 E) for E Hartree, 1/bohr."""
    edges = np.linalg.norm(atoms.cell.array, axis=1) / BOHR
    counts = 2 * (np.sqrt(8 * cutoff) * edges / (2 * np.pi)).astype(int) + 2
    return by_counts(atoms, counts.tolist(), 0.0)


def of_atoms(atoms: Atoms, grid: Grid, model: DensityModel) -> np.ndarray:
    valence = measures.valence_of(model.header)
    assert valence is not None
    return pieces.promolecule(atoms, grid, free_atoms.of_model(atoms.numbers.tolist(), valence))


def starts(
    atoms: Atoms, cutoff: float, model: DensityModel
) -> Iterator[tuple[Volume | None, float]]:
    """What each SCF begins from, and the processor seconds that it took."""
    yield None, 0.0
    grid = grid_of(atoms, cutoff)
    charges = measures.charges_of(atoms, measures.valence_of(model.header))
    assert charges is not None
    for values in (
        lambda: of_atoms(atoms, grid, model),
        lambda: predict(model, atoms, grid, MEMORY, lambda done: None).volume.values,
    ):
        start = time.process_time()
        volume = Volume(atoms, grid, values())
        measures.scale(volume.values, charges.sum() / volume.electrons)
        yield volume, time.process_time() - start


def boxed(atoms: Atoms, margin: float) -> Atoms:
    """A molecule in a box of its own; a crystal as it is."""
    if not atoms.pbc.all():
        atoms = Atoms(atoms.numbers, atoms.positions)
        atoms.center(vacuum=margin)
        atoms.pbc = True
    return atoms


def systems(options: argparse.Namespace) -> Iterator[Atoms]:
    held_out = (e.volume.atoms for e in volumetric.entries(options.data) if e.split == "test")
    for atoms in (*islice(held_out, options.count), *map(read, options.also)):
        yield boxed(atoms, options.margin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--also", type=Path, nargs="*", default=[])
    parser.add_argument("--model", default="density")
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--cutoffs", default="25,50", help="of waves, Hartree")
    parser.add_argument("--margin", type=float, default=2.5, help="around molecules, Angstrom")
    options = parser.parse_args()
    threads.take(1, None)
    model = registry.load_density(options.model)
    print(f"{options.count} molecules of 'test',", *(path.stem for path in options.also))
    print("                         cycles                seconds")
    print("system      Hartree   pw.x  atoms  model    pw.x   atoms   model (guess)")
    cutoffs = [float(word) for word in options.cutoffs.split(",")]
    sums = dict.fromkeys(cutoffs, np.zeros((len(STARTS), 2)))
    for atoms in systems(options):
        for cutoff in cutoffs:
            begun = list(starts(atoms, cutoff, model))
            row = compared(atoms, cutoff, begun)
            sums[cutoff] = sums[cutoff] + row
            _told(atoms.get_chemical_formula(), cutoff, row, f" ({begun[-1][1]:.1f})")
    for cutoff, row in sums.items():
        _told("all", cutoff, row, "")


def compared(atoms: Atoms, cutoff: float, begun: list[tuple[Volume | None, float]]) -> np.ndarray:
    """Cycles and seconds from each start, (3, 2)."""
    endings = []
    for volume, seconds in begun:
        with tempfile.TemporaryDirectory() as folder:
            ending = solved(Path(folder), atoms, cutoff, volume)
        endings.append(replace(ending, seconds=ending.seconds + seconds))
    energies = [ending.energy for ending in endings]
    if max(energies) - min(energies) > AGREE:
        raise SystemExit(f"{atoms.symbols}: energies differ: {energies}")
    return np.array([(ending.cycles, ending.seconds) for ending in endings])


def _told(name: str, cutoff: float, row: np.ndarray, guess: str) -> None:
    cycles, seconds = row.T
    numbers = "".join(f"{x:7.0f}" for x in cycles) + "".join(f"{x:8.1f}" for x in seconds)
    print(f"{name:12}{cutoff:7g}{numbers}{guess}", flush=True)


if __name__ == "__main__":
    main()
