"""Movable points with and without the singularity where they start: two scans and three forces.

    python benchmarks/scans.py PUBLISHED SOFTENED [--plot docs/scans.png]

Models of an energy with movable points, such as a checkpoint with softening 0 and one with 0.5.
Ethane's C-C bond is drawn out from 1.2 to 2.2 Angstrom, its methyl groups as they are: where the
displacement of a point passes zero, its direction turns over at once, and U0 jumps. The largest
jump is that of the energy less a straight line through its neighbours. At carbon dioxide, methane
and benzene, whose points lie on their atoms by symmetry, forces are taken 1e-6 Angstrom beside.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule

from neupol_cli import registry
from neupol_cli.models.property import PropertyModel

LENGTHS = np.linspace(1.2, 2.2, 2001)  # Angstrom
ASIDE = 1e-6  # Angstrom
BATCH = 250


def ethane(length: float) -> Atoms:
    """Ethane with so long a C-C bond."""
    atoms = molecule("C2H6")
    bond = atoms.positions[1] - atoms.positions[0]
    own = np.linalg.norm(bond)
    near = np.linalg.norm(atoms.positions - atoms.positions[1], axis=1)
    group = near < np.linalg.norm(atoms.positions - atoms.positions[0], axis=1)
    atoms.positions[group] += (length - own) / own * bond
    return atoms


def scan(model: PropertyModel) -> np.ndarray:
    """U0 along the bond, eV."""
    frames = [ethane(length) for length in LENGTHS]
    parts = [frames[k : k + BATCH] for k in range(0, len(frames), BATCH)]
    return np.concatenate([model.predict(part)[model.energy] for part in parts])


def jump(energies: np.ndarray) -> tuple[float, float]:
    """The largest step that its neighbours do not explain, meV, and where, Angstrom."""
    steps = np.diff(energies)
    left = np.abs(steps[1:-1] - 0.5 * (steps[:-2] + steps[2:]))
    place = int(left.argmax())
    return 1e3 * float(left[place]), float(LENGTHS[place + 1])


def largest_force(model: PropertyModel, name: str) -> float:
    """Of any atom, eV/Angstrom, with the first one moved aside."""
    atoms = molecule(name)
    atoms.positions[0] += ASIDE * np.array([0.3, 0.5, 0.81])
    return float(np.linalg.norm(model.predict([atoms], forces=True)["forces"], axis=1).max())


def drawn(scans: dict[str, np.ndarray], path: Path) -> None:
    """The scans, each less its lowest energy, and what is left of them near a jump."""
    import matplotlib.figure

    from neupol_cli import figures

    figure = matplotlib.figure.Figure(figsize=(9, 3.4), layout="constrained")
    whole, close = figure.subplots(1, 2)
    place = jump(next(iter(scans.values())))[1]
    near = np.abs(LENGTHS - place) < 0.02
    for name, energies in scans.items():
        whole.plot(LENGTHS, energies - energies.min(), linewidth=1.2, label=name)
        trend = np.polynomial.Polynomial.fit(LENGTHS[near], energies[near], 1)
        close.plot(LENGTHS[near], 1e3 * (energies[near] - trend(LENGTHS[near])), linewidth=1.2)
    whole.set(xlabel="C-C / Å", ylabel="U0 less its minimum / eV", title="ethane")
    whole.legend(frameon=False)
    close.set(xlabel="C-C / Å", ylabel="U0 less a line / meV", title="where the first one jumps")
    figures.save(figure, path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = ("CO2", "CH4", "C6H6")
    print("| model | softening, Å | largest jump, meV | at, Å | " + " | ".join(names) + ", eV/Å |")
    print("|---|---|---|---|---|---|---|")
    scans = {}
    for source in options.models:
        model = registry.load_property(source)
        energies = scan(model)
        label = f"softening {model.config.softening:g} Å"
        scans[label] = energies
        forces = " | ".join(f"{largest_force(model, name):.3g}" for name in names)
        size, place = jump(energies)
        print(f"| {source} | {model.config.softening:g} | {size:.3g} | {place:.4f} | {forces} |")
    if options.plot:
        drawn(scans, options.plot)


if __name__ == "__main__":
    main()
