"""Electrostatic potentials on molecular surfaces against exact ones of the same density.

    neupol data density qm9_small_pbe_gth.tar -o density.h5
    python benchmarks/potential.py density.h5 --also examples/salt_bridge.xyz |
        tee benchmarks/results/potential.txt

1. Molecules of the split: on the exact density's surface of 0.001 e/bohr^3, the potential of the
   model's density and of the exact density's grid against PySCF's integrals (PBE/GTH-DZVP).
2. Extrema and averages of water, benzene, nitromethane and what else is named, each on its own
   density's surface.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.data import chemical_symbols
from ase.io import read
from pyscf import dft, gto
from scipy.special import erf

from neupol_cli import registry, threads
from neupol_cli.charges import free_atoms, pieces
from neupol_cli.charges.free_atoms import FreeAtom
from neupol_cli.density import measures
from neupol_cli.density.on_grid import predict
from neupol_cli.io import volumetric
from neupol_cli.io.units import BOHR, HARTREE, KCALMOL
from neupol_cli.io.volumetric import Grid, Volume, by_spacing
from neupol_cli.models.density.model import DensityModel
from neupol_cli.potential import surface
from neupol_cli.potential.field import Field
from neupol_cli.potential.neutral_atoms import CORE_RADII

MEMORY = 2_000_000_000  # bytes
SOME, BLOCK = 500, 20_000  # points whose integrals, orbitals are in memory at once
MOLECULES = {"water": "H2O", "benzene": "C6H6", "nitromethane": "CH3NO2"}


class Exact:
    """The density of a molecule by PySCF, PBE/GTH-DZVP."""

    def __init__(self, atoms: Atoms) -> None:
        places = [(s, tuple(p)) for s, p in zip(atoms.symbols, atoms.positions / BOHR, strict=True)]
        level = {"basis": "gth-dzvp", "pseudo": "gth-pbe"}
        self.molecule = gto.M(atom=places, unit="Bohr", verbose=0, **level)
        method = dft.RKS(self.molecule, xc="pbe").density_fit()
        method.kernel()
        if not method.converged:
            raise SystemExit(f"{atoms.symbols}: not converged")
        self.matrix = np.asarray(method.make_rdm1())

    def volume(self, atoms: Atoms, spacing: float) -> Volume:
        grid = by_spacing(atoms, spacing, 3.6)
        values = [self._density(grid.points(k, min(k + BLOCK, grid.size))) for k in _starts(grid)]
        return Volume(atoms, grid, np.concatenate(values).reshape(grid.shape))

    def _density(self, points: np.ndarray) -> np.ndarray:
        orbitals = self.molecule.eval_gto("GTOval", points / BOHR)
        return np.asarray(np.einsum("po,po->p", orbitals @ self.matrix, orbitals) / BOHR**3)

    def at(self, points: np.ndarray) -> np.ndarray:
        """(P,) V at points (P, 3) Angstrom."""
        groups = [points[start : start + SOME] for start in range(0, len(points), SOME)]
        return np.concatenate([self._at(group / BOHR) for group in groups])

    def _at(self, points: np.ndarray) -> np.ndarray:
        mol = self.molecule
        electrons = np.einsum("pij,ij->p", mol.intor("int1e_grids", grids=points), self.matrix)
        apart = np.linalg.norm(points - mol.atom_coords()[:, None], axis=-1)  # (A, P)
        radii = np.array([CORE_RADII[mol.atom_pure_symbol(i)] for i in range(mol.natm)])
        cores = erf(apart / (np.sqrt(2) * radii[:, None])) / apart
        return np.asarray(HARTREE * (mol.atom_charges() @ cores - electrons))


def _starts(grid: Grid) -> range:
    return range(0, grid.size, BLOCK)


def field(volume: Volume, free: list[FreeAtom], charge: int | None) -> Field:
    """Of a density that is scaled to a charge, or as it is."""
    return Field(pieces.deformation(volume, free, charge))


def rms(differences: np.ndarray, where: surface.Surface) -> float:
    """kcal/mol/e, over the area."""
    squares = (differences[where.triangles] ** 2).mean(axis=1)
    return float(np.sqrt(np.average(squares, weights=where.areas))) / KCALMOL


def structures(path: Path, split: str) -> Iterator[Atoms]:
    for entry in volumetric.entries(path):
        if entry.split == split:
            yield entry.volume.atoms


def held_out(path: Path, split: str, count: int, model: DensityModel) -> None:
    """The first part: a line a molecule, and the mean."""
    valence = measures.valence_of(model.header)
    print(f"RMS on the 0.001 e/bohr^3 surface against PySCF, kcal/mol/e; {count} of '{split}'")
    print("                                       model   model, as     exact     exact,     exact")
    print("                    points   spread    0.2 A     it is       0.2 A  as it is     0.4 A")
    rows = []
    for atoms in islice(structures(path, split), count):
        free, exact = free_atoms.of_model(atoms.numbers.tolist(), valence), Exact(atoms)
        grid = exact.volume(atoms, 0.2)
        where = surface.isosurface(grid)
        true = exact.at(where.points)
        found = predict(model, atoms, grid.grid, MEMORY, lambda done: None).volume
        coarse = exact.volume(atoms, 0.4)
        cases = ((found, 0), (found, None), (grid, 0), (grid, None), (coarse, 0))
        fields = [field(volume, free, charge) for volume, charge in cases]
        errors = [rms(each.at(where.points) - true, where) for each in fields]
        mean = np.average(true[where.triangles].mean(axis=1), weights=where.areas)
        rows.append([rms(true - mean, where), *errors])
        print(_row(atoms.get_chemical_formula(), len(true), rows[-1]), flush=True)
    print(_row("mean", 0, np.mean(rows, axis=0).tolist()))
    print(_row("largest", 0, np.max(rows, axis=0).tolist()))


def _row(name: str, points: int, numbers: list[float]) -> str:
    widths = (7, 7, 8, 10, 8, 8)
    cells = "  ".join(f"{x:{w}.3f}" for x, w in zip(numbers, widths, strict=True))
    return f"{name:18}  {points or '':>6}  {cells}"


def extremes(model: DensityModel, also: Sequence[Path]) -> None:
    """The second part."""
    valence = measures.valence_of(model.header)
    print("\nkcal/mol/e          density     lowest          highest     mean+   mean-   nu     Pi")
    named = {name: molecule(formula) for name, formula in MOLECULES.items()}
    for name, atoms in (named | {path.stem: read(path) for path in also}).items():
        free, exact = free_atoms.of_model(atoms.numbers.tolist(), valence), Exact(atoms)
        grid = exact.volume(atoms, 0.2)
        found = predict(model, atoms, grid.grid, MEMORY, lambda done: None).volume
        where = surface.isosurface(grid)
        own = surface.isosurface(found)
        table = {
            "model": (field(found, free, 0).at(own.points), own),
            "PBE grid": (field(grid, free, 0).at(where.points), where),
            "PBE PySCF": (exact.at(where.points), where),
        }
        for density, (values, points) in table.items():
            print(f"{name:18}  {density:9}  {_numbers(values, points, atoms)}", flush=True)


def _numbers(values: np.ndarray, where: surface.Surface, atoms: Atoms) -> str:
    found = surface.on_surface(values, where, atoms)
    ends = [
        f"{end.value:8.2f} at {chemical_symbols[atoms.numbers[end.atom]]:2}{end.atom + 1:<2}"
        for end in (found.lowest, found.highest)
    ]
    means = f"{found.average_positive:6.2f}  {found.average_negative:6.2f}"
    return f"{'  '.join(ends)}  {means}  {found.balance:.3f}  {found.deviation:6.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="density")
    parser.add_argument("--split", default="test")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--also", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    threads.take(None, None)
    model = registry.load_density(options.model)
    held_out(options.data, options.split, options.count, model)
    extremes(model, options.also)


if __name__ == "__main__":
    main()
