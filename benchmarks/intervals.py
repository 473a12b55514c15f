"""Do a model's 90 % intervals hold 90 % of the truth, and are they wide where errors are large?

    neupol data qm9 -o qm9.h5
    OMP_NUM_THREADS=1 python benchmarks/intervals.py qm9.h5 [-m qm9] [--inside 13083] [--pairs 400]

Inside: unseen molecules of the test split. Outside: pairs of them, 15 Angstrom apart, whose truth
is known without a calculation: energies, zero-point energies and polarisabilities add up, the
higher HOMO and the lower LUMO remain. Printed are, by target, the share that the intervals hold,
Spearman's rank correlation of half-widths and errors inside, outside and of both together, and the
mean half-width over the mean error; then what the intervals cost, predictions with and without them
in turns.

    neupol data density qm9_small_pbe_gth.tar -o rho.h5
    OMP_NUM_THREADS=1 python benchmarks/intervals.py rho.h5 -m density [--outside outside.h5]

Of a density model the same of what it says around each atom, against the error of its density in
the atom's surroundings, electrons. Inside: the test split; then the calibration anew in random
divisions of all unseen molecules. Outside: molecules of it with a bond pulled or an atom misplaced,
their densities made by PySCF (half an hour, kept in the file that --outside names). Printed beside
the others: the rank correlation within a molecule, and how often the atom with the largest error is
one of the two that the model is least sure of.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from harness import in_turns
from outside import KINDS, outsiders
from scipy.stats import spearmanr
from torch import Tensor

from neupol_cli import registry
from neupol_cli.allocator import keep_large_blocks
from neupol_cli.datasets import dft
from neupol_cli.io import hdf5
from neupol_cli.io.volumetric import by_spacing
from neupol_cli.models.calibration import fitted
from neupol_cli.models.density.model import DensityModel, EncodedAtoms
from neupol_cli.models.nn.graph import Graph
from neupol_cli.models.property import UNCERTAINTY, PropertyModel
from neupol_cli.training.calibrating import errors_by_atom

APART = 15.0  # Angstrom between two molecules
SUMS = ("U0", "zpve", "alpha")
Truth = dict[str, np.ndarray]
PULLED = (  # of KINDS
    "a bond 0.15 to 0.6 Angstrom longer",
    "a bond 0.12 to 0.4 Angstrom shorter",
    "an atom misplaced",
)
EACH, DIVISIONS = 8, 100
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


Atomwise = list[tuple[Tensor, np.ndarray, np.ndarray]]  # of a molecule: features, bounds, errors


def atomwise(
    model: DensityModel[EncodedAtoms], dataset: hdf5.Dataset, indices: np.ndarray
) -> Atomwise:
    """What a density model says around the atoms of some structures, and how far off it is."""
    found = []
    for index in indices.tolist():
        features = model.atom_features(dataset.atoms(index))
        bounds = model.atom_uncertainty(features)
        assert bounds is not None
        errors = errors_by_atom(model, dataset, index)
        found.append((model.described_atoms(features), bounds.numpy(), errors.numpy()))
    return found


def atom_row(name: str, found: Atomwise) -> str:
    bounds, errors = (np.concatenate([m[k] for m in found]) for k in (1, 2))
    within = np.mean([spearmanr(b, e).statistic for _, b, e in found])
    top = sum(int(e.argmax()) in np.argsort(b)[-2:] for _, b, e in found)
    counts = f"{len(found)}, {len(errors)} | {errors.mean():.4f}"
    ranks = f"{numbers(np.stack((bounds, errors), 1))} | {within:.2f}"
    return (
        f"| {name} | {counts} | {ranks} | {top} of {len(found)} | "
        f"{bounds.mean() / errors.mean():.2f} |"
    )


def divided(known: Tensor, unseen: Atomwise, calibrating: int) -> np.ndarray:
    """(DIVISIONS,) what is held of molecules that others of the unseen ones calibrated."""
    rng, held = np.random.default_rng(0), []
    for _ in range(DIVISIONS):
        order = [unseen[k] for k in rng.permutation(len(unseen))]
        some, rest = order[:calibrating], order[calibrating:]
        structures = torch.arange(calibrating).repeat_interleave(
            torch.tensor([len(m[0]) for m in some])
        )
        errors = torch.from_numpy(np.concatenate([m[2] for m in some]))[:, None]
        half = fitted(known, torch.cat([m[0] for m in some]), errors, structures)
        bounds = half(torch.cat([m[0] for m in rest]).double())[:, 0].numpy()
        held.append((np.concatenate([m[2] for m in rest]) <= bounds).mean())
    return np.array(held)


def pulled_apart(path: Path, molecules: list[Atoms]) -> dict[str, tuple[hdf5.Dataset, np.ndarray]]:
    """Molecules outside the domain, by kind: their densities, made unless the file is there."""
    rng = np.random.default_rng(0)
    frames = [
        (kind, atoms)
        for kind in PULLED
        for atoms in islice(outsiders(molecules, KINDS[kind], rng), EACH)
    ]
    if not path.exists():
        dft.collect(frames, path, dft.Settings(spacing=0.4))
    dataset = hdf5.read(path)
    assert dataset.ids is not None  # those that could not be made are missing
    kinds = np.array([frames[k][0] for k in dataset.ids])
    return {kind: (dataset, np.flatnonzero(kinds == kind)) for kind in PULLED}


def atom_cost(model: DensityModel[EncodedAtoms], atoms: Atoms, rounds: int = 30) -> float:
    """Seconds of what is said of the atoms over those of a molecule's density, each the fastest."""
    grid, features = by_spacing(atoms, 0.4, 3.6), model.atom_features(atoms)
    turns = in_turns(
        {
            "density": lambda: model.density_grid(model.atom_features(atoms), grid),
            "estimate": lambda: model.atom_uncertainty(features),
        },
        rounds,
    )
    return turns.fastest("estimate") / turns.fastest("density")


def of_densities(
    model: DensityModel[EncodedAtoms], dataset: hdf5.Dataset, outside: Path | None
) -> None:
    splits = next(iter(dataset.splits.values()))
    molecules = [dataset.atoms(int(k)) for k in splits["test"]]
    test, valid = (atomwise(model, dataset, splits[name]) for name in ("test", "valid"))
    titles = "molecules | molecules, atoms | error (e) | held | rank | rank within a molecule"
    print(f"| {titles} | worst atom found | bound / error |\n|{'---|' * 8}")
    print(atom_row("test split", test), flush=True)
    for kind, (made, rows) in pulled_apart(outside, molecules).items() if outside else ():
        print(atom_row(kind, atomwise(model, made, rows)), flush=True)
    features = (model.atom_features(dataset.atoms(int(k))) for k in splits["train"])
    known = torch.cat([model.described_atoms(one) for one in features])
    held = divided(known, valid + test, len(valid))
    print(
        f"\n{DIVISIONS} divisions of the {len(valid + test)} unseen molecules, {len(valid)} to "
        f"calibrate by: held {held.mean():.3f}, standard deviation {held.std():.3f}"
    )
    cost = 100 * atom_cost(model, molecules[0])
    print(f"what is said of the atoms costs {cost:.2f} % of a density with steps of 0.4 Angstrom")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("-m", "--model", default="qm9")
    parser.add_argument("--inside", type=int, default=13083)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--outside", type=Path, help="of a density model: made if it is not there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    model, dataset = registry.load(options.model), hdf5.read(options.dataset)
    if isinstance(model, DensityModel):
        of_densities(model, dataset, options.outside)
        return
    assert isinstance(model, PropertyModel)
    rng = np.random.default_rng(0)
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
