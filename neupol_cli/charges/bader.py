"""Bader's atoms: each point of space goes to the maximum of the density that it climbs to.

Which that is baderkit says (extra: bader) on the density's own grid, by the method of weights (Yu,
Trinkle, J. Chem. Phys. 134, 064111, 2011), whose atoms depend least on the grid. A density of
valence electrons has no maximum at many a nucleus (a pseudopotential digs a hole there, and a
hydrogen's lies on its neighbour's slope), so that what is climbed has the core that its atoms lack:
free atoms of all electrons less those of the valence electrons. What is shared out are valence
electrons: of a density of all electrons less those cores, which stay with their nuclei and are too
sharp for a grid. Electrons are baderkit's, which has voxels at a boundary belong to both sides, and
what the grid's sum misses of each free atom; dipoles, spins and volumes take a voxel as a whole.
"""

from __future__ import annotations

import importlib
import io
import logging
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
from ase import Atoms

from neupol_cli.charges import pieces, sharing
from neupol_cli.charges.free_atoms import FreeAtom, free_atom
from neupol_cli.charges.pieces import Deformation, Piece
from neupol_cli.charges.sharing import Moments, Shares
from neupol_cli.errors import UsageError
from neupol_cli.io.units import BOHR
from neupol_cli.io.volumetric import Grid

THIN = 0.001  # e/Angstrom^3: from here on noise has maxima; it goes to the nearest nucleus
SURFACE = 0.001 / BOHR**3  # e/Angstrom^3: what is less dense is no part of a volume
NEAR = 0.5  # Angstrom from a nucleus: where its maximum is


@dataclass(frozen=True, eq=False)
class Result:
    """Atoms after Bader.

    Attributes:
        moments: what each atom has.
        volumes: (A,) of the points that are denser than `SURFACE`, Angstrom^3.
        doubts: maxima that are missing at nuclei, or are elsewhere.
    """

    moments: Moments
    volumes: np.ndarray
    doubts: Sequence[str]


@dataclass(frozen=True, eq=False)
class Basins:
    """Whose each point of a grid is.

    Attributes:
        labels: (n1, n2, n3) atoms; their number A where the density is thinner than `THIN`.
        electrons: (A,) of each atom's basins.
        owners: (M,) which atom's each maximum is.
        distances: (M,) how far from it, Angstrom.
    """

    labels: np.ndarray
    electrons: np.ndarray
    owners: np.ndarray
    distances: np.ndarray


def require() -> ModuleType:
    """baderkit; UsageError that says how to get it."""
    # It sets up logging for the whole process when it is imported, unless that has been done.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        return importlib.import_module("baderkit")
    except ImportError as trouble:
        raise UsageError("Bader needs baderkit: pip install 'neupol[bader]'") from trouble


def bader(deformation: Deformation) -> Result:
    """What each atom has after Bader.

    Raises:
        UsageError: baderkit is not installed.
        InputError: there is no free atom of an element's valence electrons, or of all.
    """
    grid, free = deformation.grid, deformation.free
    valence = [free_atom(atom.number, True) for atom in free]
    density = deformation.values + pieces.promolecule(deformation.atoms, grid, valence)
    found = basins(deformation, density, whole(deformation, density))
    shares = _shares(found.labels, grid, len(free))
    smooth = replace(deformation, values=density)
    moments = sharing.moments(smooth.on_grid(), shares, len(free))
    tail = replace(smooth, values=np.where(found.labels < len(free), 0.0, density))
    core = [atom.electrons - own.electrons for atom, own in zip(free, valence, strict=True)]
    thin = sharing.moments(tail.on_grid(), shares, len(free)).electrons
    missed = _missed(deformation, valence)
    moments = replace(moments, electrons=found.electrons + thin + core + missed)
    counted = np.bincount(found.labels[density > SURFACE], minlength=len(free))[: len(free)]
    return Result(moments, counted * grid.element, _doubts(deformation.atoms, found))


def _missed(deformation: Deformation, free: Sequence[FreeAtom]) -> np.ndarray:
    """(A,) electrons of free atoms that a sum over the grid misses, close to the nuclei."""
    found = np.zeros(len(free))
    for piece in deformation.on_grid():
        values = pieces.at_distances(piece, piece.distances(), free)
        np.add.at(found, piece.owners, values.sum(axis=1) * deformation.grid.element)
    return np.array([atom.electrons for atom in free]) - found


def _shares(labels: np.ndarray, grid: Grid, count: int) -> Shares:
    """Each voxel's for one atom: the nearest image of the one it is labelled with, of ``count`` of
    them, or of any where it is labelled with none."""
    step, origin, shape = np.linalg.inv(grid.step), grid.origin, np.array(grid.shape)

    def shares(piece: Piece, distances: np.ndarray) -> np.ndarray:
        if not len(distances):
            return distances
        index = np.rint((piece.points - origin) @ step).astype(int) % shape
        whose = labels[tuple(index.T)]  # (P,)
        is_own = (piece.owners[:, None] == whose) | (whose == count)
        apart = np.where(is_own, distances, np.inf)
        nearest = np.arange(len(apart))[:, None] == apart.argmin(axis=0)
        return np.asarray(nearest & np.isfinite(apart), float)

    return shares


def whole(deformation: Deformation, density: np.ndarray) -> np.ndarray:
    """A density of valence electrons (n1, n2, n3) e/Angstrom^3 with cores and cusps: what climbs.

    The voxel that holds a nucleus has the density at the nucleus, which a hydrogen's maximum beside
    oxygen needs on any grid of usual steps.
    """
    atoms, grid, free = deformation.atoms, deformation.grid, deformation.free
    every, valence = ([free_atom(atom.number, kind) for atom in free] for kind in (False, True))
    core = pieces.promolecule(atoms, grid, every) - pieces.promolecule(atoms, grid, valence)
    values = density + core
    places = np.rint((atoms.positions - grid.origin) @ np.linalg.inv(grid.step)).astype(int)
    apart = np.linalg.norm(grid.origin + places @ grid.step - atoms.positions, axis=1)
    for atom, distance, place in zip(every, apart, places % grid.shape, strict=True):
        values[tuple(place)] += atom.density(np.zeros(1))[0] - atom.density(distance[None])[0]
    return values


def basins(deformation: Deformation, density: np.ndarray, climbed: np.ndarray) -> Basins:
    """The basins of one density, and what they hold of another one, by baderkit.

    Args:
        deformation: whose grid and atoms.
        density: (n1, n2, n3) e/Angstrom^3, what is held.
        climbed: the same shape, whose basins.

    Raises:
        UsageError: baderkit is not installed.
    """
    baderkit = require()
    box = deformation.grid.box
    symbols = deformation.atoms.get_chemical_symbols()
    places = (deformation.atoms.positions - deformation.grid.origin) @ np.linalg.inv(box)
    structure = baderkit.Structure(box, symbols, places)
    held, whose = (
        baderkit.Grid(structure, {"total": values * abs(np.linalg.det(box))})
        for values in (density, climbed)
    )
    with redirect_stdout(io.StringIO()):  # it prints how far it has come
        found = baderkit.Bader(
            charge_grid=held,
            total_charge_grid=whose,
            reference_grid=whose,
            vacuum_tol=THIN,
            method="weight",
        )
        labels, electrons = found.atom_labels, found.atom_charges
        return Basins(labels, electrons, found.basin_atoms, found.basin_atom_dists)


def _doubts(atoms: Atoms, found: Basins) -> list[str]:
    """Nuclei without a maximum, and maxima that are no nucleus's."""
    symbols = atoms.get_chemical_symbols()
    are_near = found.distances <= NEAR
    has_maximum = np.isin(np.arange(len(symbols)), found.owners[are_near])
    bare = [f"{k + 1} ({symbols[k]})" for k in np.flatnonzero(~has_maximum)]
    far = found.distances[~are_near]
    text = f"no maximum of the density at atom {', '.join(bare)}: a finer grid may have one"
    reasons = [text] if bare else []
    if len(far):
        reasons.append(f"a maximum {far.max():.2f} Angstrom from the nearest nucleus")
    return reasons
