"""Proposition 1 of Neural Polarization as an experiment: Gaussians at atoms, and beside them.

    neupol data density qm9_small_pbe_gth.tar -o density.h5
    OMP_NUM_THREADS=1 python benchmarks/proposition.py density.h5 | tee proposition.md

Kwak and Jo: for any density there are points x~ with which the error of a basis at x and x~ is
smaller than that of the basis at x. Here true densities are expanded by least squares,

    min over c of  sum over the grid of (rho - sum_f c_f g_f)^2,

in Gaussians exp(-a |r - R|^2) (s), and these times the components of r - R (s+p), with J exponents
at every centre R, equal steps of their logarithms. The centres are

    atoms          J exponents at each x
    anywhere       J at each x, J at a point 0.3 Angstrom off in a random direction
    movable        J at each x, J at a point x~ that minimises the error (L-BFGS, from `anywhere`,
                   within 1 Angstrom along each axis)
    more at atoms  2 J exponents at each x: as many functions as the two before
    half movable   the same exponents, but from the first on every other one at a point x~ that
                   minimises the error (the same, from x)

The span of the first lies in those of `anywhere` and `movable`. The last three have as many
functions, and the last begins as the one before it. Points are moved, and lowest and highest
exponents of J and of 2 J at atoms chosen (on training molecules), by every second point of the
grid, lest functions go through points rather than between them.

Printed are means over molecules of the test split with their standard errors: eps_mae =
sum |difference| / sum |rho| of the least squares over all points; the same at every second point,
with coefficients and places from the other ones; the root of the minimised sum; how far points
went.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from scipy.linalg import cho_factor, cho_solve, lstsq
from scipy.optimize import minimize

from neupol_cli.io import volumetric
from neupol_cli.io.volumetric import Volume

START, FARTHEST = 0.3, 1.0  # Angstrom; the latter along each axis
RIDGE = 1e-9  # of the normal equations' diagonal while points move; errors printed are without it
LOWEST = (0.35, 0.6, 1.0, 1.6, 2.5)  # Angstrom^-2
HIGHEST = (4.5, 7.0, 12.0, 20.0)
CHOOSING = 6  # training molecules
STEPS = 40
SETTINGS = ((2, False), (4, False), (2, True))  # J, and whether p functions are there
NAMES = ("atoms", "anywhere", "movable", "more at atoms", "half movable")


@dataclass(frozen=True, eq=False)
class Shells:
    """Functions at a centre: ``exponents`` (J,) Angstrom^-2; with ``p`` four of each, else one."""

    exponents: np.ndarray
    p: bool

    @classmethod
    def between(cls, low: float, high: float, count: int, p: bool) -> Shells:
        """Exponents in equal steps of their logarithms."""
        return cls(np.geomspace(low, high, count), p)

    def at(self, points: np.ndarray, centres: np.ndarray) -> np.ndarray:
        """(P, C K) values at points (P, 3) of all functions at centres (C, 3); s, x, y, z."""
        columns = []
        for centre in centres:
            apart = points - centre
            bells = self.bells(apart)
            columns.append(bells)
            if self.p:
                columns += [bells * apart[:, k : k + 1] for k in range(3)]
        return np.concatenate(columns, axis=1)

    def bells(self, apart: np.ndarray) -> np.ndarray:
        """(P, J) exp(-a r^2)."""
        return np.exp(-self.exponents * (apart**2).sum(axis=1)[:, None])

    def pull(
        self, points: np.ndarray, centre: np.ndarray, c: np.ndarray, rest: np.ndarray
    ) -> np.ndarray:
        """(3,) derivative by a centre of the sum of rest^2, rest (P,) being what is left over.

        Args:
            c: (K,) coefficients of the functions there.
        """
        apart, count = points - centre, len(self.exponents)
        bells = self.bells(apart)
        s, p = c[:count], c[count:].reshape(-1, count)  # p is (3, J), or empty
        sums = s + apart @ p if self.p else np.broadcast_to(s, bells.shape)  # (P, J)
        along = 2 * (bells * sums) @ self.exponents  # (P,): d/dR of exp is 2 a (r - R) exp
        slope = along[:, None] * apart
        if self.p:
            slope -= bells @ p.T
        return np.asarray(-2 * rest @ slope)


def fitted(matrix: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(F,) coefficients of the least squares."""
    scale = np.sqrt((matrix**2).sum(axis=0))
    found, *_ = lstsq(matrix / scale, values, cond=1e-12, lapack_driver="gelsy")
    return np.asarray(found / scale)


@dataclass(frozen=True, eq=False)
class Target:
    """A density: ``points`` (P, 3) Angstrom, ``values`` (P,), ``centres`` (A, 3) of atoms, and
    ``even`` (P,), whether a point's three numbers add up to an even one."""

    points: np.ndarray
    values: np.ndarray
    centres: np.ndarray
    even: np.ndarray

    @classmethod
    def of(cls, volume: Volume) -> Target:
        even = np.indices(volume.grid.shape).sum(axis=0).ravel() % 2 == 0
        points = volume.grid.points()
        return cls(points, volume.values.ravel(), volume.atoms.positions, even)

    def errors(self, matrix: np.ndarray) -> tuple[float, float, float]:
        """eps_mae, the same at held-out points, and the root of the relative squares, percent."""
        rest = self.values - matrix @ fitted(matrix, self.values)
        held = ~self.even
        c = fitted(matrix[self.even], self.values[self.even])
        unseen = np.abs(self.values[held] - matrix[held] @ c).sum() / self.values[held].sum()
        squares = np.sqrt((rest**2).sum() / (self.values**2).sum())
        mean = np.abs(rest).sum() / self.values.sum()
        return 100 * float(mean), 100 * float(unseen), 100 * float(squares)

    def moved(self, at_atoms: Shells, shells: Shells, start: np.ndarray) -> np.ndarray:
        """Points (A, 3) for ``shells`` that minimise the squares at even points, from ``start``."""
        points, values = self.points[self.even], self.values[self.even]
        fixed, whole = at_atoms.at(points, self.centres), float((values**2).sum())

        def cost(flat: np.ndarray) -> tuple[float, np.ndarray]:
            places = flat.reshape(-1, 3)
            matrix = np.concatenate((fixed, shells.at(points, places)), axis=1)
            gram = matrix.T @ matrix
            extra = RIDGE * np.diag(gram)
            c = cho_solve(cho_factor(gram + np.diag(extra)), matrix.T @ values)
            rest = values - matrix @ c
            own = c[fixed.shape[1] :].reshape(len(places), -1)
            pulls = [shells.pull(points, *pair, rest) for pair in zip(places, own, strict=True)]
            return float(rest @ rest + extra @ c**2) / whole, np.concatenate(pulls) / whole

        middle = self.centres.ravel()
        found = minimize(
            cost,
            start.ravel(),
            jac=True,
            method="L-BFGS-B",
            bounds=np.stack((middle - FARTHEST, middle + FARTHEST), axis=1),
            options={"maxiter": STEPS, "ftol": 1e-7},
        )
        return np.asarray(found.x.reshape(-1, 3))


def chosen(targets: Sequence[Target], count: int, p: bool) -> Shells:
    """The exponents whose errors at atoms, held-out points', are smallest on the mean."""

    def unseen(shells: Shells) -> float:
        matrices = ((target, shells.at(target.points, target.centres)) for target in targets)
        return sum(target.errors(matrix)[1] for target, matrix in matrices)

    ranges = product(LOWEST, HIGHEST)
    return min((Shells.between(*ends, count, p) for ends in ranges), key=unseen)


def judged(target: Target, few: Shells, many: Shells, seed: int) -> dict[str, list[float]]:
    """Of each set of functions its three errors, and how far its points are, Angstrom."""
    away = np.random.default_rng(seed).normal(size=target.centres.shape)
    start = target.centres + START * away / np.linalg.norm(away, axis=1, keepdims=True)
    diffuse, sharp = (Shells(many.exponents[k::2], many.p) for k in (0, 1))
    sets = {
        "anywhere": (few, few, start),
        "movable": (few, few, target.moved(few, few, start)),
        "half movable": (sharp, diffuse, target.moved(sharp, diffuse, target.centres)),
    }
    errors = {
        name: [*target.errors(shells.at(target.points, target.centres)), 0.0]
        for name, shells in (("atoms", few), ("more at atoms", many))
    }
    for name, (fixed, shells, places) in sets.items():
        parts = (fixed.at(target.points, target.centres), shells.at(target.points, places))
        apart = np.linalg.norm(places - target.centres, axis=1).mean()
        errors[name] = [*target.errors(np.concatenate(parts, axis=1)), float(apart)]
    return errors


def lines(results: Sequence[dict[str, list[float]]], few: Shells, many: Shells) -> Iterator[str]:
    """Rows of the table: a set of functions each."""
    each = 4 if few.p else 1
    for name in NAMES:
        rows = np.array([result[name] for result in results])  # (M, 4)
        error = rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
        below = [
            sum(result[name][2] < result[other][2] for result in results)
            for other in ("atoms", "more at atoms")
        ]
        shells = many if name in ("more at atoms", "half movable") else few
        functions = each * len(shells.exponents) * (2 if name in ("anywhere", "movable") else 1)
        ends = f"{shells.exponents[0]:g} to {shells.exponents[-1]:g}"
        numbers = " | ".join(f"{m:.3f} ± {e:.3f}" for m, e in zip(rows.mean(0), error, strict=True))
        kind = "s+p" if few.p else "s"
        shares = " | ".join(f"{count} of {len(rows)}" for count in below)
        yield f"| {kind} | {name} | {functions} | {ends} | {numbers} | {shares} |"


HEAD = (
    "| functions | where | an atom | exponents, A^-2 | eps_mae, % | held-out points, % | "
    "root of squares, % | points off, A | squares below `atoms` | below `more at atoms` |"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--count", type=int, default=50, help="test molecules")
    options = parser.parse_args()
    entries: dict[str | None, list[Target]] = {"train": [], "test": []}
    for entry in volumetric.entries(options.data):
        if entry.split in entries:
            entries[entry.split].append(Target.of(entry.volume))
    training, testing = entries["train"][:CHOOSING], entries["test"][: options.count]
    print(f"{len(testing)} molecules\n\n{HEAD}\n|{'---|' * HEAD.count(' | ')}---|", flush=True)
    for count, p in SETTINGS:
        few, many = chosen(training, count, p), chosen(training, 2 * count, p)
        results = [judged(target, few, many, seed) for seed, target in enumerate(testing)]
        print("\n".join(lines(results, few, many)), flush=True)


if __name__ == "__main__":
    main()
