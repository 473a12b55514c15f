"""Where movable points go, beside charges and electronegativities of the same atoms.

    OMP_NUM_THREADS=1 python benchmarks/polarity.py points-zpve points-homo points-U0 qm9.h5

The first row of Figure 3 of Kwak and Jo shows electronegativities beside the paths of points, and
leaves it to the eye. Here, over the molecules of a test set and for each model, of all atoms and by
element:

    length, charge   Pearson's correlation of |x~ - x| with the atom's Hirshfeld charge (e)
    length, chi      the same with Pauling's electronegativity; within an element of the mean of
                     its neighbours'
    to chi           mean cosine between x~ - x and the sum of unit vectors to neighbours, each
                     times by how much more electronegative that one is
    to electrons     mean cosine between x~ - x and where the atom's electrons are shifted to in the
                     molecule (minus its Hirshfeld dipole)
    to minus         mean cosine between x~ - x and the sum of unit vectors to neighbours, each
                     times by how much less charge that one has

Charges and dipoles are those of the bundled density. Errors are of the molecules that were drawn:
standard deviations over resampled molecules (bootstrap), which say nothing of another network.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from displacements import drawn, followed

from neupol_cli import registry
from neupol_cli.charges import free_atoms, job, pieces
from neupol_cli.density import measures
from neupol_cli.density.on_grid import predict
from neupol_cli.io import hdf5
from neupol_cli.io.volumetric import by_spacing
from neupol_cli.models.density.model import DensityModel
from neupol_cli.trajectory import electronegativity
from neupol_cli.trajectory.measures import STILL
from neupol_cli.trajectory.paths import Trajectory

SPACING, MARGIN = 0.3, 3.6  # Angstrom
MEMORY = 2_000_000_000  # bytes
RESAMPLED = 400
LEAST = 100  # atoms of an element that has a row
ALL = "all"


def charges(model: DensityModel, trajectory: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Hirshfeld charges (A,) e and dipoles (A, 3) e Angstrom of a neutral molecule."""
    atoms = trajectory.atoms
    free = free_atoms.of_model(atoms.numbers.tolist(), measures.valence_of(model.header))
    grid = by_spacing(atoms, SPACING, MARGIN)
    volume = predict(model, atoms, grid, MEMORY, lambda done: None).volume
    answer = job.answer("hirshfeld", pieces.deformation(volume, free, 0))
    return answer.charges, answer.dipoles


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What the atoms (A) of a molecule are like, whatever a network does.

    Attributes:
        charge, chi, chi_around: (A,) charges, electronegativities, means over neighbours.
        to_chi, to_electrons, to_minus: (A, 3) directions, of any length.
    """

    charge: np.ndarray
    chi: np.ndarray
    chi_around: np.ndarray
    to_chi: np.ndarray
    to_electrons: np.ndarray
    to_minus: np.ndarray

    @classmethod
    def of(cls, model: DensityModel, trajectory: Trajectory) -> Surroundings:
        charge, dipoles = charges(model, trajectory)
        chi = electronegativity.of_elements(trajectory.atoms.numbers)
        bonds = trajectory.bonds
        units = bonds.vectors / bonds.lengths[:, None]

        def summed(values: np.ndarray) -> np.ndarray:
            """Over an atom's bonds."""
            sums = np.zeros((len(chi), *values.shape[1:]))
            np.add.at(sums, bonds.owners, values)
            return sums

        def uphill(values: np.ndarray) -> np.ndarray:
            return summed((values[bonds.partners] - values[bonds.owners])[:, None] * units)

        count = summed(np.ones(len(bonds.owners)))
        around = summed(chi[bonds.partners]) / np.maximum(count, 1)
        return cls(charge, chi, around, uphill(chi), -dipoles, uphill(-charge))


def cosines(moves: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(A,) between vectors (A, 3); nan where one of them has no direction."""
    lengths = np.linalg.norm(moves, axis=1), np.linalg.norm(directions, axis=1)
    known = (lengths[0] > STILL) & (lengths[1] > STILL)
    products = (moves * directions).sum(axis=1)
    return np.where(known, products / np.where(known, lengths[0] * lengths[1], 1.0), np.nan)


def rows_of(trajectory: Trajectory, around: Surroundings) -> np.ndarray:
    """(A, 8): atomic number, length, charge, chi, mean of neighbours' chi, three cosines."""
    moves = trajectory.points[-1] - trajectory.points[0]
    directions = (around.to_chi, around.to_electrons, around.to_minus)
    columns = (
        trajectory.atoms.numbers,
        np.linalg.norm(moves, axis=1),
        around.charge,
        around.chi,
        around.chi_around,
        *(cosines(moves, direction) for direction in directions),
    )
    return np.stack(columns, axis=1)


def statistics(rows: np.ndarray, one_element: bool) -> np.ndarray:
    """(6,) mean length, two correlations of it, three mean cosines."""
    length = rows[:, 1]
    with_chi = rows[:, 4] if one_element else rows[:, 3]
    pearson = [np.corrcoef(length, other)[0, 1] for other in (rows[:, 2], with_chi)]
    return np.array([length.mean(), *pearson, *np.nanmean(rows[:, 5:], axis=0)])


def lines(name: str, molecules: list[np.ndarray]) -> Iterator[str]:
    """A model's rows of the table."""
    every = np.concatenate(molecules)
    numbers, counts = np.unique(every[:, 0], return_counts=True)
    kinds = numbers[counts > LEAST]
    elements = {chemical_symbols[int(number)]: number for number in kinds}
    for element in (ALL, *sorted(elements)):
        kept = [m if element == ALL else m[m[:, 0] == elements[element]] for m in molecules]
        values = statistics(np.concatenate(kept), element != ALL)
        error = bootstrap([k for k in kept if len(k)], lambda r, e=element: statistics(r, e != ALL))
        cells = " | ".join(
            f"{v:+.3f} ± {e:.3f}" for v, e in zip(values[1:], error[1:], strict=True)
        )
        count = sum(map(len, kept))
        first = name if element == ALL else ""
        yield f"| {first} | {element} | {count} | {values[0]:.4f} ± {error[0]:.4f} | {cells} |"


def bootstrap(
    molecules: list[np.ndarray], statistic: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Standard deviations of a statistic over resampled molecules."""
    random = np.random.default_rng(0)
    draws = random.integers(len(molecules), size=(RESAMPLED, len(molecules)))
    found = [statistic(np.concatenate([molecules[k] for k in draw])) for draw in draws]
    return np.asarray(np.std(found, axis=0, ddof=1))


HEAD = (
    "| network | atoms of | atoms | moved, A | length, charge | length, chi | to chi | "
    "to electrons | to minus |"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("data", type=Path)
    parser.add_argument("--count", type=int, default=500)
    options = parser.parse_args()
    molecules = drawn(hdf5.read(options.data), "test", options.count, 0)
    density = registry.load_density("density")
    surroundings: list[Surroundings] = []
    print(f"{len(molecules)} molecules\n\n{HEAD}\n|{'---|' * 9}", flush=True)
    for name in options.models:
        trajectories = list(followed(registry.load(name), name, molecules))
        surroundings = surroundings or [Surroundings.of(density, one) for one in trajectories]
        pairs = zip(trajectories, surroundings, strict=True)
        rows = [rows_of(*pair) for pair in pairs]
        print("\n".join(lines(name, rows)), flush=True)


if __name__ == "__main__":
    main()
