"""What trained density networks do on the test molecules: their rates, and who gains by angles.

    OMP_NUM_THREADS=1 python benchmarks/densities_trained.py density.h5 rates RUN_OR_MODEL ...
    OMP_NUM_THREADS=1 python benchmarks/densities_trained.py density.h5 angles \\
        runs/densities/orders/80/L0/0 runs/densities/orders/80/L4/0 --plot zeta.png

``rates``: probes per second of each run folder or checkpoint on the whole grids of the test
molecules, atoms included, in turns; processor seconds, the median of the rounds. ``angles`` is
Figure 5 of Koker et al. 2023: the error of every test molecule under two networks, its angular
variation zeta (`neupol density-compare`), and how the gain from the first network to the second
goes with it.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import in_turns
from scipy.stats import pearsonr, spearmanr

from neupol_cli import registry
from neupol_cli.allocator import keep_large_blocks
from neupol_cli.density.analysis import angular_variation
from neupol_cli.io import hdf5
from neupol_cli.io.volumetric import Volume
from neupol_cli.io.volumetric.h5 import volume_of


def tested(path: Path) -> list[Volume]:
    """The molecules that no network was trained on, with their densities."""
    dataset = hdf5.read(path)
    chosen = next(iter(dataset.splits.values()))["test"]
    return [volume_of(dataset, int(index)) for index in chosen]


def predicted(model: Any, volume: Volume) -> np.ndarray:
    """The density on a molecule's own grid."""
    density = model.density_grid(model.atom_features(volume.atoms), volume.grid)
    return density.double().numpy().reshape(volume.values.shape)


def predicted_all(model: Any, volumes: list[Volume]) -> list[np.ndarray]:
    """The densities on all molecules' grids."""
    return [predicted(model, volume) for volume in volumes]


def rates(models: dict[str, Any], volumes: list[Volume], rounds: int) -> None:
    """Prints probes per second of each network."""
    sides = {name: partial(predicted_all, model, volumes) for name, model in models.items()}
    turns = in_turns(sides, rounds)
    points = sum(volume.grid.size for volume in volumes)
    print(f"{len(volumes)} molecules, {points:,} probes\n\n| network | probes/s |\n|---|---|")
    for name in models:
        print(f"| {name} | {points / turns.median(name):,.0f} |")


def errors(model: Any, volumes: list[Volume]) -> np.ndarray:
    """eps_mae of every molecule, percent."""
    apart = [np.abs(predicted(model, volume) - volume.values).sum() for volume in volumes]
    return 100 * np.array(apart) / [np.abs(volume.values).sum() for volume in volumes]


def angles(models: dict[str, Any], volumes: list[Volume], plot: Path | None) -> None:
    """Prints how the gain from the first network to the second goes with zeta."""
    low, high = (errors(model, volumes) for model in models.values())
    zeta = np.array([angular_variation(volume) for volume in volumes])
    gains = {
        "eps of the first": low,
        "eps of the second": high,
        "gain, first - second": low - high,
        "gain, first / second": low / high,
    }
    print(f"{len(volumes)} molecules, zeta {zeta.min():.3f} to {zeta.max():.3f}\n")
    print("| with zeta | mean | Pearson | Spearman |\n|---|---|---|---|")
    for name, gain in gains.items():
        linear, ranked = (f(zeta, gain).statistic for f in (pearsonr, spearmanr))
        print(f"| {name} | {gain.mean():.3f} | {linear:.2f} | {ranked:.2f} |")
    thirds = np.array_split(zeta.argsort(), 3)
    for name, part in (("lowest", thirds[0]), ("highest", thirds[-1])):
        print(f"{name} third in zeta: eps {low[part].mean():.3f} -> {high[part].mean():.3f} %")
    if plot is not None:
        _draw(zeta, low - high, list(models), plot)


def _draw(zeta: np.ndarray, gain: np.ndarray, names: list[str], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3.4), layout="constrained")
    axes = figure.add_subplot(
        xlabel="angular variation zeta", ylabel=f"eps_mae, {names[0]} - {names[1]} (%)"
    )
    axes.plot(zeta, gain, "o", markersize=4, color="tab:blue")
    axes.axhline(0, color="grey", linewidth=0.8)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("what", choices=("rates", "angles"))
    parser.add_argument("models", nargs="+", help="run folders or checkpoints; two for angles")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    if options.what == "angles" and len(options.models) != 2:
        parser.error("angles compares two networks")
    torch.set_num_threads(1)
    keep_large_blocks()
    models = {Path(name).name: registry.load(name) for name in options.models}
    if options.what == "rates":
        rates(models, tested(options.data), options.rounds)
    else:
        angles(models, tested(options.data), options.plot)


if __name__ == "__main__":
    main()
