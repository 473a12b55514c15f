"""Spin densities of a model against DFT's, of the structures that a split of a dataset holds.

    python benchmarks/radicals.py -o radicals.extxyz --split split.json
    neupol data dft radicals.extxyz --spin --spacing 0.4 --no-free-atoms --on-error fail -o all.h5
    neupol data density all.h5 --spin --split-file split.json -o radicals.h5
    python benchmarks/spins.py radicals.h5 spin | tee benchmarks/results/spins.txt

Several models, such as runs of several seeds, are told one below the other. Errors are on the
dataset's grids, as are Hirshfeld's spins of atoms; the integral of the spin density is on a grid
that is fine enough for it, 0.15 Angstrom, and should be 2S.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neupol_cli import registry, threads
from neupol_cli.charges import free_atoms, pieces, sharing
from neupol_cli.charges.free_atoms import FreeAtom
from neupol_cli.density import measures
from neupol_cli.density.on_grid import predict
from neupol_cli.domain import doubts
from neupol_cli.io import charges, volumetric
from neupol_cli.io.volumetric import Volume, by_spacing
from neupol_cli.models.density.model import DensityModel

MEMORY = 2_000_000_000  # bytes
SPACING, MARGIN = 0.15, 3.6  # Angstrom


@dataclass(frozen=True, eq=False)
class Judged:
    """One structure.

    Attributes:
        name: its formula.
        unpaired, found: electrons that there are, and those of the model.
        error, bound: eps_mae of the total density, percent, and what the model says it is below.
        wrong, whole: integrals of |s - s_DFT| and |s_DFT|, electrons.
        scaled: the first of them with s scaled to the right integral.
        spins, true_spins: (A,) of its atoms, Hirshfeld.
        is_doubted: by its unpaired electrons.
    """

    name: str
    unpaired: int
    found: float
    error: float
    bound: float
    wrong: float
    whole: float
    scaled: float
    spins: np.ndarray
    true_spins: np.ndarray
    is_doubted: bool


def judged(path: Path, split: str, model: DensityModel) -> Iterator[Judged]:
    """Every structure of the split."""
    valence = measures.valence_of(model.header)
    for entry in volumetric.entries(path):
        true = entry.volume
        if entry.split != split or true.spin is None:
            continue
        atoms = true.atoms
        free = free_atoms.of_model(atoms.numbers.tolist(), valence)
        predicted = predict(model, atoms, true.grid, MEMORY, lambda done: None)
        found, bound = predicted.volume, model.uncertainty(predicted.features)
        fine_grid = by_spacing(atoms, SPACING, MARGIN)
        fine = predict(model, atoms, fine_grid, MEMORY, lambda done: None).volume
        assert found.spin is not None and fine.unpaired is not None
        unpaired = charges.state(atoms)[1] - 1
        scaled = found.spin * (unpaired / fine.unpaired)
        yield Judged(
            name=atoms.get_chemical_formula(),
            unpaired=unpaired,
            found=fine.unpaired,
            error=measures.mean_absolute_error(found, true),
            bound=float("nan") if bound is None else bound,
            wrong=float(np.abs(found.spin - true.spin).sum()) * true.grid.element,
            scaled=float(np.abs(scaled - true.spin).sum()) * true.grid.element,
            whole=float(np.abs(true.spin).sum()) * true.grid.element,
            spins=atomic_spins(found, free),
            true_spins=atomic_spins(true, free),
            is_doubted=bool(doubts.of_spin(fine.unpaired, 0.0, atoms)),
        )


def atomic_spins(volume: Volume, free: Sequence[FreeAtom]) -> np.ndarray:
    """(A,) electrons up minus down."""
    return sharing.hirshfeld(pieces.deformation(volume, free)).spins


def tell(name: str, structures: Sequence[Judged]) -> None:
    """A block of lines on one model."""
    opened = [one for one in structures if one.unpaired]
    closed = [one for one in structures if not one.unpaired]
    eps = [100 * one.wrong / one.whole for one in opened]
    pooled = 100 * sum(one.wrong for one in opened) / sum(one.whole for one in opened)
    off = np.array([one.found - one.unpaired for one in opened])
    apart = np.concatenate([np.abs(one.spins - one.true_spins) for one in opened])
    true = np.concatenate([np.abs(one.true_spins) for one in opened])
    print(f"{name}: {len(opened)} structures with unpaired electrons, {len(closed)} without")
    total = np.mean([one.error for one in structures])
    held = sum(one.error <= one.bound for one in structures)
    print(
        f"  total density, eps_mae                 {total:.3f} % on average over all, "
        f"{held} of {len(structures)} within the bound"
    )
    print(
        f"  spin density, eps_mae                  {pooled:.2f} % pooled, {np.mean(eps):.2f} % on "
        f"average ({min(eps):.2f} to {max(eps):.2f})"
    )
    pooled = 100 * sum(one.scaled for one in opened) / sum(one.whole for one in opened)
    print(f"  the same, scaled to 2S                 {pooled:.2f} % pooled")
    print(
        f"  integral of the spin density - 2S      {np.abs(off).mean():.3f} electrons on average, "
        f"{np.abs(off).max():.3f} at most"
    )
    print(
        f"  spins of {len(apart)} atoms, Hirshfeld           {apart.mean():.4f} electrons off on "
        f"average, {apart.max():.3f} at most (the spins: {true.mean():.3f})"
    )
    wrong = [one.wrong for one in closed]
    print(
        f"  closed shells, integral of |s|         {np.mean(wrong):.3f} electrons on average, "
        f"{max(wrong):.3f} at most"
    )
    doubted = [sum(one.is_doubted for one in some) for some in (opened, closed)]
    print(f"  doubted by their unpaired electrons    {doubted[0]} and {doubted[1]}\n")


def each(structures: Sequence[Judged]) -> None:
    """A line a structure."""
    print("structure   2S  integral  eps_mae of the total  integral of |s - s_DFT| (electrons)")
    for one in structures:
        numbers = f"{one.unpaired:2d}  {one.found:8.3f}  {one.error:18.3f} %  {one.wrong:.3f}"
        print(f"{one.name:10}  {numbers}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--split", default="test")
    options = parser.parse_args()
    threads.take(1, None)
    for name in options.models:
        structures = list(judged(options.data, options.split, registry.load_density(name)))
        tell(Path(name).name, structures)
    each(structures)


if __name__ == "__main__":
    main()
