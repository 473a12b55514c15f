"""How much nearer to DFT's minima a model's relaxations end than the force field they begin with.

    python benchmarks/relaxations.py minima qm9.h5 -o minima.extxyz     # PySCF: a minute a molecule
    python benchmarks/relaxations.py compare minima.extxyz -m forces

Molecules of at most six atoms besides hydrogen that labels.py leaves to its test part: of QM9's
test molecules, and compounds of S, P and Cl of molecules.py. Each begins at the nearest minimum of
MMFF94, from QM9's geometry or ETKDG's. DFT is that of the labels (`neupol data dft`), BFGS to 0.02
eV/Angstrom; distances are root mean squares over all atoms, turned and moved upon each other.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import ase.io
import labels
import molecules
import numpy as np
from ase import Atoms
from ase.build import minimize_rotation_and_translation
from ase.calculators.calculator import Calculator, all_changes
from ase.optimize import BFGS
from rdkit import Chem
from rdkit.Chem import AllChem, rdDetermineBonds

from neupol_cli.calculator import NeupolCalculator
from neupol_cli.datasets.dft import PySCF, Settings
from neupol_cli.io import hdf5, structures

LARGEST = 6  # atoms besides hydrogen
FMAX = 0.02  # eV/Angstrom
STEPS = 100


class Dft(Calculator):
    """`neupol data dft` as ASE takes it."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012  # as ASE has it

    def __init__(self) -> None:
        super().__init__()
        self.engine = PySCF(Settings())

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        assert atoms is not None
        found = self.engine.solve(atoms, "molecule", density=False, until=np.inf)
        self.results = {"energy": found.energy, "forces": found.forces}


def by_force_field(atoms: Atoms) -> Atoms | None:
    """The nearest minimum of MMFF94; None where bonds or parameters cannot be told."""
    block = f"{len(atoms)}\n\n" + "\n".join(
        f"{symbol} {x:.6f} {y:.6f} {z:.6f}"
        for symbol, (x, y, z) in zip(atoms.symbols, atoms.positions, strict=True)
    )
    molecule: Any = Chem.MolFromXYZBlock(block)
    try:
        rdDetermineBonds.DetermineBonds(molecule, charge=0)
    except ValueError:
        return None
    if not AllChem.MMFFHasAllMoleculeParams(molecule):
        return None
    AllChem.MMFFOptimizeMolecule(molecule, maxIters=2000)
    return Atoms(atoms.numbers, molecule.GetConformer().GetPositions())


def of_qm9(path: Path, rng: np.random.Generator) -> Iterator[tuple[str, Atoms]]:
    """QM9's own test molecules, in random order."""
    data = hdf5.read(path)
    for k in rng.permutation(next(iter(data.splits.values()))["test"]):
        yield f"qm9 {k}", data.atoms(k)


def of_smiles(rng: np.random.Generator) -> Iterator[tuple[str, Atoms]]:
    """Compounds of S, P and Cl, in random order."""
    pairs = product(molecules.STEMS, molecules.GROUPS)
    made = [stem.format(group) for stem, group in pairs] + list(molecules.COMMON)
    words = [str(smiles) for smiles in rng.permutation(made)]
    for _, atoms in structures.read(words, "skip", doubts_told=False):
        yield str(atoms.info["smiles"]), atoms


def starts(named: Iterator[tuple[str, Atoms]], count: int) -> Iterator[tuple[str, Atoms]]:
    """The first ``count`` that no training has seen, at minima of the force field."""
    unseen = (
        (name, by_force_field(atoms))
        for name, atoms in named
        if len(atoms) > 3
        and (atoms.numbers > 1).sum() <= LARGEST
        and labels.place(atoms) >= labels.TEST
    )
    found = ((name, start) for name, start in unseen if start is not None)
    return islice(found, count)


def minima(options: argparse.Namespace) -> None:
    """Writes starts and minima in turns, one molecule after the other."""
    rng = np.random.default_rng(options.seed)
    half = options.count // 2
    chosen = [*starts(of_smiles(rng), half), *starts(of_qm9(options.file, rng), half)]
    for name, start in sorted(chosen, key=lambda each: len(each[1])):
        atoms = start.copy()
        atoms.calc = Dft()
        steps = BFGS(atoms, logfile=None)
        if steps.run(fmax=FMAX, steps=STEPS):
            start.info["name"] = atoms.info["name"] = name
            ase.io.write(options.output, [start, atoms], format="extxyz", append=True)
        print(f"{name}: {steps.nsteps} steps", flush=True)


def distance(one: Atoms, other: Atoms) -> float:
    """Root mean square over atoms, Angstrom."""
    moved = one.copy()
    minimize_rotation_and_translation(other, moved)
    return float(np.sqrt(np.square(moved.positions - other.positions).sum(1).mean()))


def compare(options: argparse.Namespace) -> None:
    """The table, and in how many molecules the model is nearer."""
    frames = ase.io.read(options.file, ":")
    rows = []
    print("| molecule | atoms | force field, Angstrom | model, Angstrom |\n|---|---|---|---|")
    for start, minimum in zip(frames[::2], frames[1::2], strict=True):
        atoms = start.copy()
        atoms.calc = NeupolCalculator(options.model)
        BFGS(atoms, logfile=None).run(fmax=FMAX, steps=5 * STEPS)
        rows.append((distance(start, minimum), distance(atoms, minimum)))
        name = f"{start.info['name']} {start.get_chemical_formula()}"
        print(f"| {name} | {len(start)} | {rows[-1][0]:.3f} | {rows[-1][1]:.3f} |", flush=True)
    before, after = np.array(rows).T
    error = (after - before).std(ddof=1) / len(rows) ** 0.5
    print(
        f"{(after < before).sum()} of {len(rows)} end nearer; mean {before.mean():.3f} and "
        f"{after.mean():.3f} Angstrom, difference {(after - before).mean():+.3f} ± {error:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("minima", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("-m", "--model", default="forces")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("minima.extxyz"))
    options = parser.parse_args()
    (minima if options.what == "minima" else compare)(options)


if __name__ == "__main__":
    main()
