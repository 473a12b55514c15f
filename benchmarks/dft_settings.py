"""What PySCF spends on molecules, and what its settings cost in energies and forces.

    OMP_NUM_THREADS=1 python benchmarks/dft_settings.py [SMILES ...]

Of each molecule: exact Coulomb integrals on a tight grid, PySCF's defaults with density fitting,
and `neupol data dft`'s. Seconds are those of the processor; errors are against the first.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
from ase import Atoms

from neupol_cli.datasets import dft
from neupol_cli.io import structures
from neupol_cli.io.units import BOHR, HARTREE

MOLECULES = ("CC(=O)NC", "c1ccsc1", "FC(F)CO", "CC1(C#N)CC1", "CC(=O)NCC1CCO1")
SETTINGS = dft.Settings()
Answer = tuple[float, np.ndarray]  # eV, (A, 3) eV/Angstrom


def by_hand(atoms: Atoms, fitted: bool, level: int, tolerance: float) -> Answer:
    """Energy and forces of a closed-shell molecule, with PySCF's own choices for all else."""
    from pyscf.dft import RKS

    method = RKS(dft._molecule(atoms, SETTINGS))
    method = method.density_fit() if fitted else method
    method.xc, method.grids.level, method.conv_tol = SETTINGS.xc, level, tolerance
    energy = method.kernel()
    return energy * HARTREE, -method.nuc_grad_method().kernel() * HARTREE / BOHR


def ours(atoms: Atoms) -> Answer:
    found = dft.PySCF(SETTINGS).solve(atoms, "molecule", False, np.inf)
    return found.energy, found.forces


WAYS: dict[str, Callable[[Atoms], Answer]] = {
    "tight: exact Coulomb, level 4, 1e-11": lambda atoms: by_hand(atoms, False, 4, 1e-11),
    "defaults: fitted, level 3, 1e-9": lambda atoms: by_hand(atoms, True, 3, 1e-9),
    "neupol data dft": ours,
}


def main() -> None:
    print("| molecule | way | seconds | energy, meV/atom | forces, meV/Angstrom |")
    print("|---|---|---:|---:|---:|")
    for smiles in sys.argv[1:] or MOLECULES:
        ((_, atoms),) = structures.read([smiles], "skip")
        tight: Answer | None = None
        for name, way in WAYS.items():
            started = time.process_time()
            energy, forces = way(atoms)
            seconds = time.process_time() - started
            tight = tight or (energy, forces)
            off = 1000 * (energy - tight[0]) / len(atoms)
            worst = 1000 * np.abs(forces - tight[1]).max()
            cells = f"{smiles} | {name} | {seconds:.1f} | {off:+.4f} | {worst:.3f}"
            print(f"| {cells} |", flush=True)


if __name__ == "__main__":
    main()
