"""How electrons at points are shared out to atoms, and what each atom then has.

Hirshfeld (Theor. Chim. Acta 44, 129, 1977): at each point an atom A gets the share that its free
atom has in the promolecule, w_A = rho_A / sum_B rho_B. Its charge is

    q_A = -int w_A (rho - sum_B rho_B),

since int w_A sum_B rho_B is what the free atom has. Voronoi deformation density (Fonseca Guerra et
al., J. Comput. Chem. 25, 189, 2004) is the same with w_A = 1 at points that are nearest to A. A
voxel that the plane between two atoms cuts goes to both, by how much of it is on either side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np

from neupol_cli.charges.pieces import Deformation, Piece, at_distances
from neupol_cli.models.workers import in_order

# Shares (G, P) of the near atoms at a piece's points, from their distances (G, P) in Angstrom.
Shares = Callable[[Piece, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Moments:
    """What atoms have in a density.

    Attributes:
        electrons: (A,).
        firsts: (A, 3) integral of density times the vector from the nucleus, e Angstrom.
        thirds: (A,) the same of distance cubed, e Angstrom^3.
        spins: (A,) up minus down; zero where the density has no spin.
    """

    electrons: np.ndarray
    firsts: np.ndarray
    thirds: np.ndarray
    spins: np.ndarray


def moments(pieces: Iterable[Piece], shares: Shares, count: int) -> Moments:
    """Share out pieces to ``count`` atoms."""

    def of_piece(piece: Piece) -> np.ndarray:
        distances = piece.distances()
        weights = shares(piece, distances)
        return _sums(piece, weights, distances, count)

    total = np.zeros((count, 6))
    for sums in in_order(of_piece, pieces):
        total += sums
    return Moments(total[:, 0], total[:, 1:4], total[:, 4], total[:, 5])


def _sums(piece: Piece, weights: np.ndarray, distances: np.ndarray, count: int) -> np.ndarray:
    """(A, 6) of one piece: electrons, first moments, third moment, spin."""
    rows = np.zeros((len(piece.owners), 6))
    if piece.spin is not None:
        rows[:, 5] = weights @ piece.spin
    parts = weights * piece.electrons  # (G, P)
    rows[:, 0] = parts.sum(axis=1)
    rows[:, 1:4] = parts @ piece.points - rows[:, :1] * piece.centers
    rows[:, 4] = (parts * distances**3).sum(axis=1)
    sums = np.zeros((count, 6))
    np.add.at(sums, piece.owners, rows)
    return sums


def hirshfeld(deformation: Deformation) -> Moments:
    """What each atom has after Hirshfeld."""

    def shares(piece: Piece, distances: np.ndarray) -> np.ndarray:
        return stockholder(at_distances(piece, distances, deformation.free))

    return _with_free(deformation, shares)


def voronoi(deformation: Deformation) -> Moments:
    """What each atom has by its Voronoi cell of the deformation density (third moments: only of
    that density, the free atoms' own are not cut)."""

    def shares(piece: Piece, distances: np.ndarray) -> np.ndarray:
        return cells(piece.centers, distances, deformation.grid.step)

    return _with_free(deformation, shares)


def cells(centers: np.ndarray, distances: np.ndarray, step: np.ndarray) -> np.ndarray:
    """How much of each voxel (G, P) is nearest to each atom; of the two nearest atoms only.

    Args:
        centers: (G, 3) atoms and images, Angstrom.
        distances: (G, P) to the voxels' middles.
        step: (3, 3) the voxels' edges.
    """
    weights = np.zeros_like(distances)
    if len(distances) < 2:
        return weights + 1.0
    first, second = np.argpartition(distances, 1, axis=0)[:2]  # (P,)
    points = np.arange(distances.shape[1])
    apart = centers[second] - centers[first]
    lengths = np.linalg.norm(apart, axis=1)
    squares = distances[second, points] ** 2 - distances[first, points] ** 2
    inside = squares / (2 * lengths)  # of the plane between the two, Angstrom
    across = np.abs(apart @ step.T).sum(axis=1) / lengths  # the voxel's extent along its normal
    weights[first, points] = np.minimum(0.5 + inside / across, 1.0)
    weights[second, points] = 1.0 - weights[first, points]
    return weights


def _with_free(deformation: Deformation, shares: Shares) -> Moments:
    """Of the deformation density, and the free atoms' own."""
    free = deformation.free
    changes = moments(deformation.on_grid(), shares, len(free))
    electrons = changes.electrons + np.array([atom.electrons for atom in free])
    thirds = changes.thirds + np.array([atom.volume for atom in free])
    return Moments(electrons, changes.firsts, thirds, changes.spins)


def stockholder(densities: np.ndarray) -> np.ndarray:
    """Each row's share in the sum of all, (G, P); nothing where there is nothing."""
    total = densities.sum(axis=0)
    return np.asarray(densities / np.where(total > 0.0, total, 1.0))


def everything(deformation: Deformation) -> Iterable[Piece]:
    """All electrons: the deformation density on the grid, the free atoms around their nuclei."""
    return chain(deformation.on_grid(), deformation.around_nuclei())
