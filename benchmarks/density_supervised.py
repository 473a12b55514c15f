"""Neural Polarization that learns densities beside energies: do points become polarization?

    neupol data density qm9_small_pbe_gth.tar -o density.h5
    OMP_NUM_THREADS=1 python benchmarks/density_supervised.py density.h5 --out runs/supervised

Kwak and Jo leave densities to future work. Here one trunk, ChargE3Net's layers among atoms without
and with movable points, has two readouts: the density at probes, and an energy from the scalars of
the points that move (of the atoms, where none do). It learns the energies of molecules, their
densities, or both, all else equal: the same molecules, steps and seeds. Of molecules that it has
not seen:

    energy       mean absolute error, meV, after a least-squares fit of the composition to the
                 training set
    eps_mae      of the density, percent
    moved        mean |x~ - x|, Angstrom
    cosine       mean cosine between x~ - x and where the atom's electrons are shifted to in DFT's
                 density (minus its Hirshfeld dipole), beside that of displacements given to other
                 atoms of the element, and that of the way out of the atom's bonds, which needs no
                 network
    explained    share of those dipoles' squares that a factor an element times x~ - x explains; the
                 same of the way out of the bonds, and what x~ - x explains beside it
    into bonds   mean cosine between x~ - x and the way into the atom's bonds
    seeds        mean cosine between the displacements of two seeds
    to Boys      mean cosine between x~ - x and the atom's Foster-Boys centres: those of its lone
                 pairs and half of those of its bonds, summed from the atom (PySCF, PBE)
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import study
import torch
from ase import Atoms
from ase.data import chemical_symbols
from polarity import cosines
from torch import Tensor, nn

from neupol_cli.allocator import keep_large_blocks
from neupol_cli.charges import free_atoms, job, pieces
from neupol_cli.io import hdf5
from neupol_cli.io.hdf5 import Dataset
from neupol_cli.io.volumetric.h5 import volume_of
from neupol_cli.models.charge3net.features import AtomFeatures
from neupol_cli.models.charge3net.network import ChargE3Net
from neupol_cli.models.nn.graph import Graph, segment_sum
from neupol_cli.training.density_task import DensityTask, density_task
from neupol_cli.training.loop import Trainer
from neupol_cli.training.request import Request
from neupol_cli.training.settings import Settings
from neupol_cli.training.target_normalization import SUM, composition, normalization_of
from neupol_cli.trajectory.skeleton import skeleton

NETWORK = {"mul": 120, "lmax": 2, "embedding": 32, "probes": 200, "sampling_exponent": 0.5}
ATOMS = {"promolecule": 12}
HEAD = 64
# What is learnt -> the weights of energies, in units of their spread, and of densities, in units of
# their mean.
LEARNT = {"energy": (1.0, 0.0), "energy, density": (1.0, 10.0), "density": (0.0, 10.0)}
MODES = ("off", "movable")
RESAMPLED = 200
COLUMNS = {"seconds": ".0f", "energy": ".1f", "eps_mae": ".3f"}


class Both(nn.Module):
    """A density network whose scalars answer an energy, too."""

    def __init__(self, density: ChargE3Net) -> None:
        super().__init__()
        self.density, self.config = density, density.config
        self.head = nn.Sequential(
            nn.Linear(density.invariants, HEAD), nn.SiLU(), nn.Linear(HEAD, 1)
        )

    def energies(self, features: AtomFeatures, graph: Graph) -> Tensor:
        """(B,) sums over the points that move, or else over the atoms, in units of the spread."""
        own = features.invariants[-graph.numbers.shape[0] :]
        return segment_sum(self.head(own), graph.batch, graph.size).squeeze(1)


class Supervised:
    """Energies, densities or both of the same molecules; a `task.Task`."""

    metric, grain = "energy", 10**9

    def __init__(self, data: Dataset, learnt: str, mode: str, seed: int) -> None:
        config = {**NETWORK, **ATOMS, "polarization": mode}
        self.densities: DensityTask = density_task(
            "charge3net", data, Request(config=config, seed=seed)
        )
        assert isinstance(self.densities.model, ChargE3Net)
        self.model, self.size = Both(self.densities.model), self.densities.size
        self.weights = LEARNT[learnt]
        self.mean = float(self.densities.grids.values.abs().mean())
        self.energies, self.spread = standardised(data, self.densities.splits["train"])
        self.units, self.meta = {"energy": "meV"}, self.densities.meta

    def loss(
        self, indices: Tensor, generator: torch.Generator, whole: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of both; see `task.Task`."""
        chosen = self.densities.train[indices]
        graph, _ = self.densities.arrays.graph(chosen)
        features = self.model.density.encode(graph)
        parts = {}
        if self.weights[0]:
            apart = self.model.energies(features, graph) - self.energies[chosen]
            parts["energy"] = self.weights[0] * apart.abs().mean()
        if self.weights[1]:
            parts["density"] = self.weights[1] * self._density(features, chosen, generator)
        return torch.stack(list(parts.values())).sum(), parts

    def _density(
        self, features: AtomFeatures, chosen: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Mean |rho - rho^| at probes in units of the mean density, as DensityTask draws them."""
        grids = self.densities.grids
        rows, weights = self.densities.draw(chosen, self.model.config.probes, generator)
        assert weights is not None
        predicted = self.model.density.at(features, grids.points(chosen, rows))
        errors = (predicted - grids.values[rows.reshape(-1)]).abs()
        return (errors * weights.reshape(-1).to(errors.dtype)).mean() / self.mean


def standardised(data: Dataset, train: np.ndarray) -> tuple[Tensor, float]:
    """(N,) energies less a fit of the composition, in units of their spread; that in eV."""
    counts = composition(data.numbers, data.offsets, tuple(data.elements))
    values = data.targets["energy"].values[:, None]
    fit = normalization_of(values[train], counts[train], ("energy",), "fitted", "auto", {}, [SUM])
    learnt = torch.from_numpy(fit.applied(values, counts)[:, 0])
    return learnt.float(), float(fit.scale[0])


def unseen(data: Dataset) -> np.ndarray:
    """Molecules that nothing is learnt or chosen from: those to validate and to test on."""
    splits = next(iter(data.splits.values()))
    return np.concatenate([splits["test"], splits["valid"]])


@dataclass(frozen=True)
class Training(study.Run):
    """A network: its arguments are the data, what is learnt, the mode, the seed and the steps."""

    def perform(self, out: Path) -> None:
        """Trains it, keeps its errors, and beside them where its points went."""
        path = out / f"{self.name}.json"
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        data, learnt, mode, seed, steps = self.arguments
        task = Supervised(hdf5.read(data), learnt, mode, seed)
        trainer, start = Trainer(task, settings_of(steps, seed)), clock()
        while not trainer.done():
            trainer.step()
        seconds = clock() - start
        with trainer.eval_mode():
            found, moves = measured(task)
        np.savez(path.with_suffix(".npz"), moves=moves)
        path.write_text(json.dumps({**found, "steps": steps, "seconds": seconds}, indent=1) + "\n")


def settings_of(steps: int, seed: int) -> Settings:
    """How every network is trained."""
    return Settings(steps=steps, seed=seed, batch_size=8, lr=0.01, warmup=50, clip=10.0, ema=0.99)


def clock() -> float:
    """Processor seconds."""
    return time.process_time()


@torch.no_grad()
def measured(task: Supervised) -> tuple[dict[str, float | None], np.ndarray]:
    """Errors of unseen molecules, and (A, 3) their points' displacements in Angstrom."""
    apart, moves, densities = [], [], task.densities
    for index in unseen(densities.dataset):
        graph, _ = densities.arrays.graph(torch.tensor([int(index)]))
        features = task.model.density.encode(graph)
        error = task.model.energies(features, graph) - task.energies[int(index)]
        apart.append(1000 * task.spread * float(error.abs()))
        ends = features.path or (graph.positions, graph.positions)
        moves.append((ends[-1] - ends[0]).double().numpy())
    learnt = dict(zip(("energy", "density"), task.weights, strict=True))
    eps = None
    if learnt["density"]:
        eps = densities.evaluate("test", task.model.density, lambda: None)[densities.metric]
    energy = float(np.mean(apart)) if learnt["energy"] else None
    return {"energy": energy, "eps_mae": eps}, np.concatenate(moves)


# What DFT says of the same atoms.


@dataclass(frozen=True, eq=False)
class Reference:
    """Of the A atoms of the unseen molecules.

    Attributes:
        numbers: (A,) elements.
        shifts: (A, 3) minus the Hirshfeld dipoles, e Angstrom: where electrons are shifted to.
        out_of_bonds: (A, 3) minus the sum of unit vectors to bonded atoms.
        boys: (A, 3) sums of vectors to Foster-Boys centres, Angstrom; nan where not computed.
    """

    numbers: np.ndarray
    shifts: np.ndarray
    out_of_bonds: np.ndarray
    boys: np.ndarray


def reference(data: Path, out: Path, centers: int) -> Reference:
    """Computed once; Foster-Boys centres of the first so many molecules."""
    path = out / "reference.npz"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        dataset = hdf5.read(data)
        rows = [of_molecule(dataset, int(k), n < centers) for n, k in enumerate(unseen(dataset))]
        np.savez(path, *(np.concatenate(column) for column in zip(*rows, strict=True)))
    with np.load(path) as file:
        return Reference(*(file[name] for name in file))


def of_molecule(dataset: Dataset, index: int, centers: bool) -> tuple[np.ndarray, ...]:
    """A molecule's rows of `Reference`."""
    volume = volume_of(dataset, index)
    atoms = volume.atoms
    free = free_atoms.of_model(atoms.numbers.tolist(), dataset.references["electrons"])
    dipoles = job.answer("hirshfeld", pieces.deformation(volume, free, 0)).dipoles
    bonds, out = skeleton(atoms), np.zeros((len(atoms), 3))
    np.add.at(out, bonds.owners, -bonds.vectors / bonds.lengths[:, None])
    boys = boys_sums(atoms) if centers else np.full((len(atoms), 3), np.nan)
    return atoms.numbers, -dipoles, out, boys


def boys_sums(atoms: Atoms) -> np.ndarray:
    """(A, 3) lone pairs' centres and half of the bonds', from their atoms, Angstrom."""
    sums = np.zeros((len(atoms), 3))
    for center in boys_centers(atoms):
        vectors = center - atoms.positions
        lengths = np.linalg.norm(vectors, axis=1)
        near = np.argsort(lengths)[:2]
        # Between two atoms: hardly farther than straight from one to the other.
        is_bond = lengths[near].sum() < 1.15 * np.linalg.norm(np.diff(vectors[near], axis=0))
        for atom in near if is_bond else near[:1]:
            sums[atom] += vectors[atom] * (0.5 if is_bond else 1.0)
    return sums


def boys_centers(atoms: Atoms) -> np.ndarray:
    """(orbitals, 3) Angstrom: of localised valence orbitals, PBE with GTH pseudopotentials."""
    from pyscf import dft, gto, lo
    from pyscf.data.nist import BOHR

    where = list(zip(atoms.get_chemical_symbols(), atoms.positions.tolist(), strict=True))
    molecule = gto.M(atom=where, basis="gth-dzvp", pseudo="gth-pbe", verbose=0)
    field = dft.RKS(molecule, xc="pbe").density_fit()
    field.kernel()
    orbitals = lo.Boys(molecule, field.mo_coeff[:, field.mo_occ > 0]).kernel()
    dipoles = molecule.intor("int1e_r")
    return np.asarray(BOHR * np.einsum("xij,ik,jk->kx", dipoles, orbitals, orbitals))


# What the points have to do with it.


def explained(shifts: np.ndarray, numbers: np.ndarray, by: Sequence[np.ndarray]) -> float:
    """Share of squares of vectors (A, 3) in least squares of others, factors an element."""
    left = 0.0
    for number in np.unique(numbers):
        rows = numbers == number
        design = np.stack([vectors[rows].ravel() for vectors in by], 1)
        factors = np.linalg.lstsq(design, shifts[rows].ravel(), rcond=None)[0]
        left += float(np.square(shifts[rows].ravel() - design @ factors).sum())
    return 1.0 - left / float(np.square(shifts).sum())


def shuffled(moves: np.ndarray, numbers: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Displacements given to other atoms of the same element."""
    other = moves.copy()
    for number in np.unique(numbers):
        rows = np.flatnonzero(numbers == number)
        other[rows] = moves[random.permutation(rows)]
    return other


def likeness(moves: np.ndarray, truth: Reference) -> dict[str, float]:
    """What the module's docstring lists of one network's displacements."""
    random, numbers = np.random.default_rng(0), truth.numbers
    others = [shuffled(moves, numbers, random) for _ in range(RESAMPLED)]
    chance = [np.nanmean(cosines(other, truth.shifts)) for other in others]
    known = np.isfinite(truth.boys[:, 0])
    bonds = explained(truth.shifts, numbers, [truth.out_of_bonds])
    both = explained(truth.shifts, numbers, [truth.out_of_bonds, moves])
    found = {
        "moved": np.linalg.norm(moves, axis=1).mean(),
        "cosine": np.nanmean(cosines(moves, truth.shifts)),
        "shuffled": np.mean(chance),
        "explained": explained(truth.shifts, numbers, [moves]),
        "beside bonds": both - bonds,
        "into bonds": np.nanmean(cosines(moves, -truth.out_of_bonds)),
        "to Boys": np.nanmean(cosines(moves[known], truth.boys[known])),
    }
    for number in np.unique(numbers):
        rows = numbers == number
        name = chemical_symbols[int(number)]
        found[f"cosine of {name}"] = np.nanmean(cosines(moves[rows], truth.shifts[rows]))
    return {name: float(value) for name, value in found.items()}


def report(results: study.Results, out: Path, truth: Reference, seeds: Sequence[int]) -> None:
    """Errors, then what displacements have to do with DFT's dipoles; means and standard errors."""
    print("| learnt | points | seeds | steps | seconds | energy, meV | eps_mae, % |")
    print("|---|---|---|---|---|---|---|")
    for learnt, mode, found in groups(results, seeds):
        known = {key: [one[key] for one in found.values() if one[key]] for key in COLUMNS}
        cells = [study.with_error(known[key], form) for key, form in COLUMNS.items()]
        steps = next(iter(found.values()))["steps"]
        print(f"| {learnt} | {mode} | {len(found)} | {steps:,} | {' | '.join(cells)} |")
    geometry = likeness(truth.out_of_bonds, truth)
    heads = ("learnt", *geometry, "seeds")
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for learnt, mode, found in groups(results, seeds):
        if mode == "movable":
            moves = [np.load(out / f"{name}.npz")["moves"] for name in found]
            each = [likeness(one, truth) for one in moves]
            cells = [study.with_error([one[name] for one in each], "+.3f") for name in geometry]
            alike = [np.nanmean(cosines(*pair)) for pair in combinations(moves, 2)]
            between = f"{np.mean(alike):+.3f}" if alike else "-"
            print(f"| {learnt} | {' | '.join(cells)} | {between} |")
    print(f"| out of bonds | {' | '.join(f'{value:+.3f}' for value in geometry.values())} | |")


def groups(
    results: study.Results, seeds: Sequence[int]
) -> Iterator[tuple[str, str, dict[str, dict[str, Any]]]]:
    """What is learnt, the mode, and name -> result of the seeds that are there."""
    for learnt in LEARNT:
        for mode in MODES:
            names = [name_of(learnt, mode, seed) for seed in seeds]
            if found := {name: results[name] for name in names if name in results}:
                yield learnt, mode, found


def name_of(learnt: str, mode: str, seed: int) -> str:
    """A training's."""
    return f"{learnt}/{mode}/{seed}"


def main() -> None:
    parser = study.options(__doc__ or "", "runs/supervised")
    parser.add_argument("data", type=Path, help="densities with energies, of `neupol data`")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--centers", type=int, default=25, help="molecules with Boys centres")
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    seeds = range(options.seeds)
    runs = [
        Training(name_of(learnt, mode, seed), (options.data, learnt, mode, seed, options.steps))
        for seed in seeds
        for learnt in LEARNT
        for mode in MODES
    ]

    def told(results: study.Results) -> None:
        truth = reference(options.data, options.out, options.centers)
        report(results, options.out, truth, seeds)

    study.conduct(runs, options, told)


if __name__ == "__main__":
    main()
