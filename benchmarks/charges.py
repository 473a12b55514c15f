"""Charges from a model's densities against the same schemes on reference densities.

    neupol data density qm9_small_pbe_gth.tar -o density.h5
    python benchmarks/charges.py density.h5 | tee benchmarks/results/charges.txt

1. Every density of the split: the model's on the same grid, charges of both by each scheme.
2. Small molecules by the model and by PySCF, of valence electrons and of all; water by MBIS beside
   what Psi4 publishes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule

from neupol_cli import registry, threads
from neupol_cli.charges import free_atoms, job, mbis, pieces
from neupol_cli.charges.free_atoms import FreeAtom
from neupol_cli.datasets import dft
from neupol_cli.density import measures
from neupol_cli.density.on_grid import predict
from neupol_cli.io import volumetric
from neupol_cli.io.units import BOHR
from neupol_cli.io.volumetric import Volume, by_spacing
from neupol_cli.models.density.model import DensityModel

MEMORY = 2_000_000_000  # bytes
SCHEMES = ("hirshfeld", "voronoi", "mbis")
SPACING = 0.2  # Angstrom, of the second part
FORMAMIDE = [  # Angstrom; flat, bonds and angles about those of microwave spectra
    [0.0, 0.0, 0.0], [-0.690, 0.997, 0.0], [-0.424, -1.015, 0.0],
    [1.361, 0.0, 0.0], [1.848, 0.879, 0.0], [1.848, -0.879, 0.0],
]  # fmt: skip
# The data's own level, and nearly converged basis sets with and without core electrons.
LEVELS = (("gth-dzvp", "gth-pbe"), ("gth-qzv3p", "gth-pbe"), ("def2-qzvp", "none"))
MOLECULES = {"water": "H2O", "carbon dioxide": "CO2", "hydrogen fluoride": "HF"}


def charges(volume: Volume, free: Sequence[FreeAtom], scheme: str) -> np.ndarray:
    """(A,) e, of a density that is scaled to be neutral."""
    return job.answer(scheme, pieces.deformation(volume, free, 0)).charges


def held_out(path: Path, split: str, model: DensityModel) -> None:
    """The first part: a line an element and one for all."""
    valence = measures.valence_of(model.header)
    apart: dict[str, list[np.ndarray]] = {scheme: [] for scheme in SCHEMES}
    spread: dict[str, list[np.ndarray]] = {scheme: [] for scheme in SCHEMES}
    numbers, worst = [], dict.fromkeys(SCHEMES, (0.0, ""))
    for entry in volumetric.entries(path):
        if entry.split != split:
            continue
        atoms, reference = entry.volume.atoms, entry.volume
        free = free_atoms.of_model(atoms.numbers.tolist(), valence)
        found = predict(model, atoms, reference.grid, MEMORY, lambda done: None).volume
        numbers.append(atoms.numbers)
        for scheme in SCHEMES:
            true = charges(reference, free, scheme)
            difference = charges(found, free, scheme) - true
            apart[scheme].append(difference)
            spread[scheme].append(true)
            name = atoms.get_chemical_formula()
            worst[scheme] = max(worst[scheme], (float(np.abs(difference).max()), name))
    elements = np.concatenate(numbers)
    print(f"{len(numbers)} molecules of '{split}', {len(elements)} atoms; charges in e")
    print("scheme     mean |q|  mean |difference|  largest            H       C       N       O")
    for scheme in SCHEMES:
        error, true = np.abs(np.concatenate(apart[scheme])), np.concatenate(spread[scheme])
        each = "  ".join(f"{error[elements == z].mean():.4f}" for z in (1, 6, 7, 8))
        largest = f"{worst[scheme][0]:.4f} {worst[scheme][1]:9}"
        print(f"{scheme:9}  {np.abs(true).mean():8.4f}  {error.mean():17.5f}  {largest}  {each}")


def sanity(model: DensityModel) -> None:
    """The second part."""
    valence = measures.valence_of(model.header)
    print("\nmolecule            density        scheme     charges (e)")
    molecules = {name: molecule(formula) for name, formula in MOLECULES.items()}
    molecules["formamide"] = Atoms("COHNH2", FORMAMIDE)
    for name, atoms in molecules.items():
        grid = by_spacing(atoms, SPACING, 3.6)
        core_less = free_atoms.of_model(atoms.numbers.tolist(), valence)
        whole = [free_atoms.free_atom(int(z), False) for z in atoms.numbers]
        predicted = predict(model, atoms, grid, MEMORY, lambda done: None).volume
        table = {"model": (predicted, core_less)}
        for basis, pseudo in LEVELS:
            settings = dft.Settings(basis=basis, pseudo=pseudo)
            free = whole if pseudo == "none" else core_less
            table[f"PBE {basis}"] = (dft.solve(atoms, settings, name)[0], free)
        for density, (volume, free) in table.items():
            for scheme in SCHEMES:
                values = zip(atoms.symbols, charges(volume, free, scheme), strict=True)
                line = " ".join(f"{symbol} {q:+.3f}" for symbol, q in values)
                print(f"{name:18}  {density:13}  {scheme:9}  {line}", flush=True)


def beside_psi4() -> None:
    """Water as tests/mbis-1 of Psi4 has it: HF/cc-pVDZ, O-H 1 Angstrom, 104.5 degrees."""
    angle = np.deg2rad(104.5)
    places = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [np.cos(angle), np.sin(angle), 0.0]]
    atoms = Atoms("OH2", places)
    settings = dft.Settings(xc="hf", basis="cc-pvdz", pseudo="none")
    volume, _ = dft.solve(atoms, settings, "water")
    free = [free_atoms.free_atom(int(z), False) for z in atoms.numbers]
    moments = mbis.mbis(pieces.deformation(volume, free, 0)).moments
    found = atoms.numbers - moments.electrons
    volumes = moments.thirds / BOHR**3
    print("\nMBIS of water, HF/cc-pVDZ  O charge (e)  H charge  O volume (bohr^3)  H volume")
    print("Psi4, tests/mbis-1             -0.84572   0.42286           26.3377    1.5095")
    print(
        f"here, a grid of {SPACING} Angstrom   {found[0]:9.5f}  {found[1]:8.5f}  "
        f"{volumes[0]:16.4f}  {volumes[1]:8.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="density")
    parser.add_argument("--split", default="test")
    options = parser.parse_args()
    threads.take(None, None)
    model = registry.load_density(options.model)
    held_out(options.data, options.split, model)
    sanity(model)
    beside_psi4()


if __name__ == "__main__":
    main()
