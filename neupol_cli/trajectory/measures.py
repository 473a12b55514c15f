"""How far movable points go and which way, as numbers a chemist can read.

Lengths are in Angstrom, angles in degrees. What an atom does not have (a bond, a flat ring, a
direction; a centre in a crystal) is None.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from neupol_cli.trajectory.paths import Trajectory
from neupol_cli.trajectory.skeleton import Skeleton

if TYPE_CHECKING:
    from ase import Atoms

STILL = 1e-6  # Angstrom; a point that moved less has no direction


class AgainstBonds(TypedDict):
    """A displacement against an atom's bonds.

    of_half_bond: its length over half the length of the shortest bond.
    bond_angle, bond_to: degrees to the nearest bond, and the index of that bond's partner.
    """

    of_half_bond: float | None
    bond_angle: float | None
    bond_to: int | None


class AgainstPlane(TypedDict):
    """A displacement against the plane of an atom's flat ring.

    out_of_plane: its component across the plane, Angstrom.
    plane_angle: between displacement and plane, degrees.
    """

    out_of_plane: float | None
    plane_angle: float | None


class AtomMeasures(AgainstBonds, AgainstPlane):
    """What one atom's movable point did between x~_0 and the last x~.

    displacement: |x~ - x| at the end.
    path_length: the sum over layers of how far the point went.
    outward: component along the direction from the centre of mass; out is positive.
    """

    atom: int
    element: str
    displacement: float
    path_length: float
    outward: float | None


class BondMeasures(TypedDict):
    """Means over the ends of one kind of bond.

    along: component of the displacement along the bond, towards the partner.
    of_bond: the same over the bond's length.
    """

    ends: int
    along: float
    of_bond: float


Means = dict[str, float | None]  # ``atoms``, and the mean of each of MEANS


class Report(TypedDict):
    """Everything about one structure under one model, in the order in which it is written."""

    file: str
    model: str
    targets: list[str]
    unit: str
    layers: int
    mean_displacement: float
    within_half_bond: float | None
    moved_outward: float | None
    by_element: dict[str, Means]
    by_bond: dict[str, BondMeasures]
    atoms: list[AtomMeasures]


def measures(trajectory: Trajectory) -> list[AtomMeasures]:
    """For each atom what its movable point did; see :class:`AtomMeasures`."""
    moves = trajectory.points[-1] - trajectory.points[0]  # (A, 3)
    path_lengths = np.linalg.norm(np.diff(trajectory.points, axis=0), axis=2).sum(0)  # (A,)
    outward = _outward(trajectory.atoms)
    rows = []
    for atom, (symbol, move) in enumerate(zip(trajectory.atoms.symbols, moves, strict=True)):
        away = None if outward is None else outward[atom]
        row: AtomMeasures = {
            "atom": atom,
            "element": str(symbol),
            "displacement": float(np.linalg.norm(move)),
            "path_length": float(path_lengths[atom]),
            **_against_bonds(trajectory.bonds, atom, move),
            "outward": None if away is None or not away.any() else float(move @ away),
            **_against_plane(trajectory.bonds, atom, move),
        }
        rows.append(row)
    return rows


def _outward(atoms: Atoms) -> np.ndarray | None:
    """(A, 3) unit vectors from the centre of mass; zero on it; None in a crystal."""
    if atoms.pbc.any():
        return None
    away = atoms.positions - atoms.get_center_of_mass()
    lengths = np.linalg.norm(away, axis=1, keepdims=True)
    return np.where(lengths > STILL, away / np.maximum(lengths, STILL), 0.0)


def _against_bonds(bonds: Skeleton, atom: int, move: np.ndarray) -> AgainstBonds:
    own = np.flatnonzero(bonds.owners == atom)
    if not len(own):
        return {"of_half_bond": None, "bond_angle": None, "bond_to": None}
    lengths = bonds.lengths[own]
    distance = np.linalg.norm(move)
    of_half_bond = float(2 * distance / lengths.min())
    if distance < STILL:
        return {"of_half_bond": of_half_bond, "bond_angle": None, "bond_to": None}
    cosines = bonds.vectors[own] @ move / (lengths * distance)
    nearest = int(cosines.argmax())
    return {
        "of_half_bond": of_half_bond,
        "bond_angle": float(np.degrees(np.arccos(min(1.0, cosines[nearest])))),
        "bond_to": int(bonds.partners[own[nearest]]),
    }


def _against_plane(bonds: Skeleton, atom: int, move: np.ndarray) -> AgainstPlane:
    ring = bonds.plane_of(atom)
    if ring is None:
        return {"out_of_plane": None, "plane_angle": None}
    across, distance = abs(float(move @ ring.normal)), float(np.linalg.norm(move))
    angle = None if distance < STILL else float(np.degrees(np.arcsin(min(1.0, across / distance))))
    return {"out_of_plane": across, "plane_angle": angle}


MEANS = ("displacement", "of_half_bond", "bond_angle", "outward", "out_of_plane", "plane_angle")


def by_element(rows: Sequence[AtomMeasures]) -> dict[str, Means]:
    """Means over the atoms of each element; None where no atom has the quantity."""
    groups: dict[str, list[AtomMeasures]] = defaultdict(list)
    for row in rows:
        groups[row["element"]].append(row)
    return {element: _means(group) for element, group in sorted(groups.items())}


def values_of(rows: Sequence[AtomMeasures], key: str) -> np.ndarray:
    """A quantity of those atoms that have it."""
    return np.array([row[key] for row in rows if row[key] is not None], float)  # type: ignore[literal-required]


def _means(rows: Sequence[AtomMeasures]) -> Means:
    means: Means = {"atoms": len(rows)}
    for key in MEANS:
        values = values_of(rows, key)
        means[key] = float(values.mean()) if len(values) else None
    return means


def by_bond(trajectory: Trajectory) -> dict[str, BondMeasures]:
    """Means over the ends of each kind of bond: ``C-H`` is carbons' points on their way to H.

    A bond within a flat ring is a kind of its own: ``C-C ring``.
    """
    moves = trajectory.points[-1] - trajectory.points[0]
    bonds, symbols = trajectory.bonds, list(trajectory.atoms.symbols)
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for i, j, vector, length in zip(
        bonds.owners, bonds.partners, bonds.vectors, bonds.lengths, strict=True
    ):
        kind = f"{symbols[i]}-{symbols[j]}" + " ring" * bonds.in_ring(int(i), int(j))
        along = float(moves[i] @ vector) / float(length)
        groups[kind].append((along, along / float(length)))
    means = {kind: np.mean(values, axis=0) for kind, values in sorted(groups.items())}
    return {
        kind: {"ends": len(groups[kind]), "along": float(mean[0]), "of_bond": float(mean[1])}
        for kind, mean in means.items()
    }


def report(trajectory: Trajectory) -> Report:
    """Everything about one structure under one model, as plain values for JSON."""
    rows = measures(trajectory)
    halves, outward = values_of(rows, "of_half_bond"), values_of(rows, "outward")
    return {
        "file": trajectory.label,
        "model": trajectory.model,
        "targets": list(trajectory.targets),
        "unit": "Angstrom",
        "layers": len(trajectory.points),
        "mean_displacement": float(values_of(rows, "displacement").mean()),
        "within_half_bond": float((halves < 1.0).mean()) if len(halves) else None,
        "moved_outward": float((outward > 0.0).mean()) if len(outward) else None,
        "by_element": by_element(rows),
        "by_bond": by_bond(trajectory),
        "atoms": rows,
    }
