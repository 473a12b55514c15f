"""Minimal basis iterative stockholder (Verstraelen et al., J. Chem. Theory Comput. 12, 3894, 2016).

The promolecule is a sum of Slater shells on each atom,

    rho_Ai(r) = N_Ai / (8 pi s_Ai^3) exp(-r / s_Ai),

as many as the atom has rows of the periodic table filled, whose populations and widths are those of
the density's share that each gets:

    N_Ai = int rho rho_Ai / rho_pro,    s_Ai = int rho r rho_Ai / rho_pro / (3 N_Ai),

which is repeated until it changes nothing; the sum then is the one of its kind that is nearest to
the density (Kullback and Leibler). Two steps say how such an iteration goes on, and where it may
jump to (SQUAREM: Varadhan, Roland, Scand. J. Stat. 35, 335, 2008): the same end in a fraction of
the steps. Of a valence density core electrons are left out of
the innermost rows: carbon keeps one shell of four electrons. That makes charges more polar than of
all electrons, by 0.05 e in water and 0.1 e in CO2 (benchmarks/results/charges.txt).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from neupol_cli.charges import sharing
from neupol_cli.charges.free_atoms import FreeAtom
from neupol_cli.charges.pieces import Deformation, Piece
from neupol_cli.charges.sharing import Moments
from neupol_cli.errors import DivergedError
from neupol_cli.io.units import BOHR
from neupol_cli.models.workers import in_order

ROWS = (2, 8, 8, 18, 18, 32, 32)  # electrons that fill each row of the periodic table
CONVERGED = 1e-6  # electrons that a step still moves
MOST = 2000  # steps
LONGEST = 50.0  # steps that are left out at once, about
LEAST = 1e-12  # electrons: an empty shell stays where it is


@dataclass(frozen=True, eq=False)
class Shells:
    """S Slater shells.

    Attributes:
        owners: (S,) the atom that each is on, ascending.
        populations: (S,) electrons.
        widths: (S,) Angstrom.
    """

    owners: np.ndarray
    populations: np.ndarray
    widths: np.ndarray

    def updated(self, gains: np.ndarray) -> Shells:
        """With the sums (S, 2) of electrons and of electrons times distance that each got."""
        populations = np.maximum(gains[:, 0], LEAST)
        widths = np.where(gains[:, 0] > LEAST, gains[:, 1] / (3 * populations), self.widths)
        return Shells(self.owners, populations, widths)

    def is_near(self, other: Shells) -> bool:
        """Whether populations are the same, and widths (which in N2 are all that changes)."""
        change = np.abs(self.populations - other.populations)
        wider = self.populations * np.abs(self.widths / other.widths - 1.0)
        return bool(max(change.max(), wider.max()) < CONVERGED)

    def density(self, index: np.ndarray, distances: np.ndarray) -> np.ndarray:
        """Of some shells, (G,), at as many rows of distances, (G, P) e/Angstrom^3."""
        widths = self.widths[index]
        heights = self.populations[index] / (8 * np.pi * widths**3)
        return np.asarray(heights[:, None] * np.exp(-distances / widths[:, None]))


@dataclass(frozen=True, eq=False)
class Result:
    """What each atom has, and its shells."""

    moments: Moments
    shells: Shells


def mbis(deformation: Deformation) -> Result:
    """Shells of a density, and what each atom has by them.

    Raises:
        DivergedError: it does not settle.
    """
    shells = _settled(
        initial(deformation.free), lambda s: _gains(sharing.everything(deformation), s)
    )

    def shares(piece: Piece, distances: np.ndarray) -> np.ndarray:
        return sharing.stockholder(_by_atom(piece, shells, distances))

    pieces = sharing.everything(deformation)
    return Result(sharing.moments(pieces, shares, len(deformation.free)), shells)


def _settled(shells: Shells, gains_of: Callable[[Shells], np.ndarray]) -> Shells:
    """What the iteration ends in; DivergedError where it does not."""
    for _ in range(0, MOST, 2):
        first = shells.updated(gains_of(shells))
        if first.is_near(shells):
            return first
        second = first.updated(gains_of(first))
        if second.is_near(first):
            return second
        shells = _ahead(shells, first, second)
    raise DivergedError(f"MBIS did not settle in {MOST:,} steps")


def _ahead(shells: Shells, first: Shells, second: Shells) -> Shells:
    """Where two steps lead to, in the logarithms of populations and widths."""
    logs = [np.log([s.populations, s.widths]) for s in (shells, first, second)]
    step = logs[1] - logs[0]
    bend = logs[2] - logs[1] - step
    ratio = float(np.linalg.norm(step)) / max(float(np.linalg.norm(bend)), 1e-300)
    length = min(max(1.0, ratio), LONGEST)
    populations, widths = np.exp(logs[0] + 2 * length * step + length**2 * bend)
    return Shells(shells.owners, populations, widths)


def _gains(pieces: Iterable[Piece], shells: Shells) -> np.ndarray:
    """(S, 2): electrons that each shell gets, and electrons times their distance."""

    def of_piece(piece: Piece) -> np.ndarray:
        index, rows = _near(piece, shells)
        distances = piece.distances()[rows]
        parts = sharing.stockholder(shells.density(index, distances)) * piece.electrons
        gains = np.zeros((len(shells.owners), 2))
        np.add.at(gains, index, np.stack([parts.sum(1), (parts * distances).sum(1)], axis=1))
        return gains

    total = np.zeros((len(shells.owners), 2))
    for gains in in_order(of_piece, pieces):
        total += gains
    return total


def _near(piece: Piece, shells: Shells) -> tuple[np.ndarray, np.ndarray]:
    """The shells (G',) on a piece's near atoms, and which near atom each is on."""
    every = np.bincount(shells.owners)
    counts = every[piece.owners]  # (G,)
    rows = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return (np.cumsum(every) - every)[piece.owners][rows] + within, rows


def _by_atom(piece: Piece, shells: Shells, distances: np.ndarray) -> np.ndarray:
    """The shells of each near atom together, (G, P) e/Angstrom^3."""
    index, rows = _near(piece, shells)
    sums = np.zeros_like(distances)
    np.add.at(sums, rows, shells.density(index, distances[rows]))
    return sums


def initial(free: Sequence[FreeAtom]) -> Shells:
    """The shells of free atoms, which the iteration begins with."""
    of_kind = {atom.number: _of_free_atom(atom) for atom in free}
    each = [of_kind[atom.number] for atom in free]
    owners = np.repeat(np.arange(len(free)), [len(shells.owners) for shells in each])
    populations = np.concatenate([shells.populations for shells in each])
    return Shells(owners, populations, np.concatenate([shells.widths for shells in each]))


def _of_free_atom(atom: FreeAtom) -> Shells:
    """By the same iteration, along the radius alone."""
    populations = np.array(occupied(atom.number, atom.electrons))
    # The published start: widths from 1 / 2Z to 1 / 2 bohr, in equal ratios.
    rows = len(occupied(atom.number, atom.number))
    widths = np.geomspace(0.5 / atom.number, 0.5, rows) if rows > 1 else np.array([0.5])
    shells = Shells(
        np.zeros(len(populations), int), populations, BOHR * widths[-len(populations) :]
    )
    radii = np.geomspace(1e-3, atom.radius, 400)
    electrons = radii**3 * atom.density(radii)
    nothing, owners = np.zeros((1, 3)), np.zeros(1, int)
    points = np.stack([radii, 0 * radii, 0 * radii], axis=1)
    piece = Piece(points, electrons * (atom.electrons / electrons.sum()), None, owners, nothing)
    return _settled(shells, lambda s: _gains([piece], s))


def occupied(number: int, electrons: float) -> list[float]:
    """Electrons of an element in each row that has any; core electrons are left out from within."""
    rest, core = float(number), number - electrons
    rows = []
    for room in ROWS:
        filled = min(room, rest)
        rest -= filled
        left_out = min(core, filled)
        core -= left_out
        rows.append(filled - left_out)
    return [filled for filled in rows if filled > 0]
