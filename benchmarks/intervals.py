"""Do a model's 90 % intervals hold 90 % of the truth, and are they wide where errors are large?

    neupol data qm9 -o qm9.h5
    OMP_NUM_THREADS=1 python benchmarks/intervals.py qm9.h5 [-m qm9] [--inside 13083] [--pairs 400]

Inside: unseen molecules of the test split. Outside: pairs of them, 15 Angstrom apart, whose truth
is known without a calculation: energies, zero-point energies and polarisabilities add up, the
higher HOMO and the lower LUMO remain. Printed are, by target, the share that the intervals hold,
Spearman's rank correlation of half-widths and errors inside, outside and of both together, and the
mean half-width over the mean error; then what the intervals cost, predictions with and without them
in turns.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from ase import Atoms
from harness import in_turns
from scipy.stats import spearmanr

from neupol_cli import registry
from neupol_cli.allocator import keep_large_blocks
from neupol_cli.io import hdf5
from neupol_cli.models.nn.graph import Graph
from neupol_cli.models.property import UNCERTAINTY, PropertyModel

APART = 15.0  # Angstrom between two molecules
SUMS = ("U0", "zpve", "alpha")
Truth = dict[str, np.ndarray]
COLUMNS = "target | held | rank | outside: held | rank | both: rank | half-width / error"


def pair(first: Atoms, second: Atoms) -> Atoms:
    """Two molecules far from each other."""
    second = second.copy()
    second.positions[:, 0] += np.ptp(first.positions[:, 0]) + APART
    return first + second


def truth_of_pairs(truth: Truth, first: np.ndarray, second: np.ndarray) -> Truth:
    """Labels of pairs, from those of the molecules."""
    known = {name: truth[name][first] + truth[name][second] for name in SUMS if name in truth}
    if "homo" in truth:
        known["homo"] = np.maximum(truth["homo"][first], truth["homo"][second])
    if "lumo" in truth:
        known["lumo"] = np.minimum(truth["lumo"][first], truth["lumo"][second])
    if "gap" in truth and {"homo", "lumo"} <= known.keys():
        known["gap"] = known["lumo"] - known["homo"]
    return known


def compared(model: PropertyModel, structures: list[Atoms], truth: Truth) -> dict[str, np.ndarray]:
    """Target -> (n, 2) half-widths and errors."""
    answers = model.predict(structures)
    return {
        name: np.stack((answers[name + UNCERTAINTY], np.abs(answers[name] - values)), 1)
        for name, values in truth.items()
    }


def numbers(rows: np.ndarray) -> str:
    half, errors = rows.T
    return f"{(errors <= half).mean():.3f} | {spearmanr(half, errors).statistic:.2f}"


def row(name: str, inside: np.ndarray, outside: np.ndarray | None) -> str:
    ratio = inside[:, 0].mean() / inside[:, 1].mean()
    if outside is None:
        return f"| {name} | {numbers(inside)} | - | - | - | {ratio:.2f} |"
    both = spearmanr(*np.concatenate((inside, outside)).T).statistic
    return f"| {name} | {numbers(inside)} | {numbers(outside)} | {both:.2f} | {ratio:.2f} |"


def cost(model: PropertyModel, structures: list[Atoms], rounds: int = 60) -> float:
    """Seconds of predictions with intervals over seconds without, the fastest of each."""
    graph = Graph.from_atoms(structures, model.dtype)
    with torch.no_grad():
        turns = in_turns(
            {"without": lambda: model(graph), "with": lambda: model(graph, widths=True)}, rounds
        )
    return turns.fastest("with") / turns.fastest("without")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("-m", "--model", default="qm9")
    parser.add_argument("--inside", type=int, default=13083)
    parser.add_argument("--pairs", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    model = registry.load_property(options.model)
    dataset, rng = hdf5.read(options.dataset), np.random.default_rng(0)
    chosen = rng.permutation(dataset.splits["paper"]["test"])[: options.inside]
    structures = [dataset.atoms(int(k)) for k in chosen]
    truth = {name: dataset.targets[name].values[chosen] for name in model.targets}
    first, second = rng.integers(len(structures), size=(2, options.pairs))
    pairs = [pair(structures[i], structures[j]) for i, j in zip(first, second, strict=True)]
    inside = compared(model, structures, truth)
    outside = compared(model, pairs, truth_of_pairs(truth, first, second))
    print(f"{len(structures)} molecules, {len(pairs)} pairs\n\n| {COLUMNS} |\n|{'---|' * 7}")
    for name in model.targets:
        print(row(name, inside[name], outside.get(name)))
    print(f"\nintervals cost {100 * (cost(model, structures[:16]) - 1):.1f} % of a prediction")


if __name__ == "__main__":
    main()
