"""The table of free atoms' densities that `neupol charges` measures against.

    python benchmarks/free_atoms.py                  # writes neupol_cli/charges/free_atoms.npz
    python benchmarks/free_atoms.py --model density  # what a model says of single atoms

PBE with PySCF, spherically averaged: electrons of an open shell are shared out evenly over its
orbitals, spin-restricted, which is how Hirshfeld's atoms are usually made. Valence densities with
GTH-PBE pseudopotentials in GTH-DZVP, the level of the bundled density model and its data, and in
DZVP-MOLOPT-SR-GTH for elements that it does not have; densities of all electrons in def2-QZVP.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from pyscf import gto
from pyscf.data.elements import NRSRHFS_CONFIGURATION
from pyscf.dft import rks
from pyscf.gto.ecp import core_configuration
from pyscf.scf import atom_hf

from neupol_cli import registry
from neupol_cli.charges import free_atoms
from neupol_cli.io.units import BOHR

RADII = np.geomspace(0.004, 12.0, 84)  # Angstrom
# Elements whose GTH-DZVP is for as many electrons as their pseudopotential has.
MOLECULAR = {"H", "He", "B", "C", "N", "O", "F", "Ne", "Al", "Si", "P", "S", "Cl", "Ar"}
LANTHANIDES = range(57, 72)
HEAVIEST = 86
ALL_ELECTRON = 36  # def2 has pseudopotentials beyond
LEAST = 1e-30  # e/bohr^3: whose logarithm still is one


class SphericalAtom(rks.RKS):
    """An atom whose orbitals of one l are occupied alike."""

    eig = atom_hf.AtomSphericAverageRHF.eig

    def get_occ(self, mo_energy: np.ndarray, mo_coeff: np.ndarray) -> np.ndarray:
        """Occupations in the order of `eig`: by l, the lowest first."""
        symbol, shells = self.mol.atom_pure_symbol(0), self.mol._bas
        protons = chemical_symbols.index(symbol)
        core = core_configuration(protons - self.mol.nelectron, atom_symbol=symbol)
        occupations = []
        for order in range(int(shells[:, gto.ANG_OF].max()) + 1):
            count = int(shells[shells[:, gto.ANG_OF] == order, gto.NCTR_OF].sum())
            full, share = atom_hf.frac_occ(symbol, order, NRSRHFS_CONFIGURATION)
            full -= core[order] if order < len(core) else 0
            radial = np.zeros(count)
            radial[:full] = 2.0
            if share > 0:
                radial[full] = share
            occupations.append(np.repeat(radial, 2 * order + 1))
        return np.concatenate(occupations)

    def get_grad(self, mo_coeff: object, mo_occ: object, fock: object = None) -> float:
        """None: energies decide when it is done."""
        return 0.0


def density(symbol: str, basis: str, pseudo: str | None) -> tuple[int, np.ndarray]:
    """Electrons and the density (R,) e/bohr^3 at RADII."""
    charge = chemical_symbols.index(symbol)
    atom = gto.Mole(verbose=0, basis=basis, spin=None)
    atom.atom = [(symbol, (0.0, 0.0, 0.0))]
    if pseudo is not None:
        atom.pseudo = pseudo
    atom.build()
    method = SphericalAtom(atom)
    method.xc, method.max_cycle, method.conv_tol = "pbe", 200, 1e-9
    method.grids.level = 5
    method.init_guess = "1e"
    method.kernel()
    if not method.converged:
        raise SystemExit(f"{symbol} ({charge} protons, {basis}): not converged")
    points = np.zeros((len(RADII), 3))
    points[:, 2] = RADII / BOHR
    orbitals = atom.eval_gto("GTOval", points)
    matrix = method.make_rdm1()
    # Along one axis the density is that of every direction, the atom being spherical.
    return atom.nelectron, np.einsum("pi,ij,pj->p", orbitals, matrix, orbitals)


def table() -> dict[str, np.ndarray]:
    """What the package keeps: an atom a row, its density's logarithm at the radii."""
    rows: list[tuple[int, int, np.ndarray]] = []
    for number in range(1, HEAVIEST + 1):
        symbol = chemical_symbols[number]
        levels: list[tuple[str, str | None]] = []
        if number not in LANTHANIDES:
            basis = "gth-dzvp" if symbol in MOLECULAR else "gth-dzvp-molopt-sr"
            levels.append((basis, "gth-pbe"))
        if number <= ALL_ELECTRON:
            levels.append(("def2-qzvp", None))
        for basis, pseudo in levels:
            electrons, values = density(symbol, basis, pseudo)
            print(symbol, electrons, basis, flush=True)
            rows.append((number, 0 if pseudo is None else electrons, values))
    logarithms = np.log(np.maximum([row[2] for row in rows], LEAST) / BOHR**3)
    return {
        "radii": RADII,
        "numbers": np.array([row[0] for row in rows], np.uint8),
        "valence": np.array([row[1] for row in rows], np.uint8),  # 0: all electrons
        "log_density": logarithms.astype(np.float32),
    }


def single_atoms(name: str) -> None:
    """Prints electrons of a model's single atoms, and how far they are from the table's."""
    model = registry.load_density(name)
    radii = np.linspace(0.005, 6.0, 1200)
    shells = 4 * np.pi * radii**2 * (radii[1] - radii[0])
    print("atom  electrons  of  lowest (e/Angstrom^3)  integral of |difference|")
    for name, electrons in model.header["valence"].items():
        points = np.zeros((len(radii), 3))
        points[:, 2] = radii
        features = model.atom_features(Atoms(name))
        found = model.density(features, torch.from_numpy(points)).detach().double().numpy()
        free = free_atoms.free_atom(chemical_symbols.index(name), True)
        apart = np.abs(found - free.density(radii)) @ shells
        print(f"{name:4}  {found @ shells:9.4f}  {electrons:2g}  {found.min():21.2e}  {apart:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", help="compare this model's single atoms with the table")
    options = parser.parse_args()
    if options.model:
        single_atoms(options.model)
        return
    path = Path(free_atoms.__file__).with_name("free_atoms.npz")
    np.savez_compressed(path, **table())
    print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
