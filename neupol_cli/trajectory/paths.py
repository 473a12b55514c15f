"""Where movable points go (Kwak and Jo, sections 5.2 and 6), as numbers a chemist can read.

A network of T layers places its movable points at x~_0 = x .. x~_{T-1}; there is no x~_T, since
nothing comes behind the last layer that could see it. In a density network there is: the probes
read the points at x~_T. All lengths are in Angstrom.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neupol_cli.errors import UsageError
from neupol_cli.trajectory.skeleton import Skeleton, skeleton

if TYPE_CHECKING:
    from ase import Atoms

    from neupol_cli.models.base import Model

STILL = 1e-6  # Angstrom; a point that moved less has no direction
Row = dict[str, Any]


@dataclass(frozen=True)
class Trajectory:
    """The paths of one structure's movable points under one model.

    Attributes:
        label: the structure's name.
        atoms: the structure.
        model: the model's name.
        targets: what that model was trained on.
        points: (T, A, 3) x~_0 .. x~_{T-1}, Angstrom; (T + 1, A, 3) of a density network.
        bonds: bonds and rings of the structure.
    """

    label: str
    atoms: Atoms
    model: str
    targets: tuple[str, ...]
    points: np.ndarray
    bonds: Skeleton


def grouped(found: Sequence[Trajectory]) -> dict[str, list[Trajectory]]:
    """The trajectories of each model, both in the order in which they come."""
    groups: dict[str, list[Trajectory]] = defaultdict(list)
    for each in found:
        groups[each.model].append(each)
    return dict(groups)


def check_movable(model: Model, name: str) -> None:
    """Refuses a model whose points do not move. Errors: UsageError."""
    mode = model.polarization_mode
    if mode is None:
        raise UsageError(
            f"{name}: moves no points; trajectories are those of networks for properties and of "
            "charge3net, trained with --polarization movable"
        )
    if mode != "movable":
        raise UsageError(
            f"{name}: has no movable points (polarization is {mode}); "
            "train one with --polarization movable"
        )


def trajectory(model: Model, name: str, label: str, atoms: Atoms) -> Trajectory:
    """Follows the movable points of a structure through a model's layers.

    Errors: InputError for an element that the model never saw; UsageError as :func:`check_movable`.
    """
    check_movable(model, name)
    model.check([atoms], [label])
    (path,) = paths(model, [atoms])
    targets = tuple(model.targets)
    return Trajectory(label, atoms, name, targets, path, skeleton(atoms))


def paths(model: Any, structures: Sequence[Atoms]) -> list[np.ndarray]:
    """(T, A, 3) Angstrom of each structure, all at once; for models that move their points."""
    import torch

    from neupol_cli.models.nn.graph import Graph

    like = next(model.parameters())
    with torch.no_grad():
        graph = Graph.from_atoms(structures, like.dtype, like.device)
        moved = torch.stack(model.movable_points(graph)).double().cpu().numpy()
    # The network rounds positions to its own numbers; the displacements are what it says.
    ends = np.cumsum([len(atoms) for atoms in structures])[:-1]
    moves = np.split(moved - moved[:1], ends, axis=1)
    return [each.positions + move for each, move in zip(structures, moves, strict=True)]


def measures(found: Trajectory) -> list[Row]:
    """For each atom what its movable point did between x~_0 and the last x~.

    displacement: |x~ - x| at the end.
    path_length: the sum over layers of how far the point went.
    of_half_bond: displacement over half the length of the atom's shortest bond.
    bond_angle, bond_to: degrees from the displacement to the nearest bond, and that bond's partner.
    outward: component along the direction from the centre of mass (out is positive).
    out_of_plane, plane_angle: component across the plane of the atom's flat ring, and the angle
        between displacement and plane in degrees.

    What an atom does not have (a bond, a flat ring, a direction; a centre in a crystal) is None.
    """
    moves = found.points[-1] - found.points[0]  # (A, 3)
    steps = np.linalg.norm(np.diff(found.points, axis=0), axis=2).sum(0)  # (A,)
    outward = _outward(found.atoms)
    rows = []
    for atom, (symbol, move) in enumerate(zip(found.atoms.symbols, moves, strict=True)):
        row: Row = {"atom": atom, "element": str(symbol)}
        row["displacement"] = float(np.linalg.norm(move))
        row["path_length"] = float(steps[atom])
        row |= _against_bonds(found.bonds, atom, move)
        away = None if outward is None else outward[atom]
        row["outward"] = None if away is None or not away.any() else float(move @ away)
        row |= _against_plane(found.bonds, atom, move)
        rows.append(row)
    return rows


def _outward(atoms: Atoms) -> np.ndarray | None:
    """(A, 3) unit vectors from the centre of mass; zero on it; None in a crystal."""
    if atoms.pbc.any():
        return None
    away = atoms.positions - atoms.get_center_of_mass()
    lengths = np.linalg.norm(away, axis=1, keepdims=True)
    return np.where(lengths > STILL, away / np.maximum(lengths, STILL), 0.0)


def _against_bonds(bonds: Skeleton, atom: int, move: np.ndarray) -> Row:
    mine = np.flatnonzero(bonds.owners == atom)
    if not len(mine):
        return dict.fromkeys(("of_half_bond", "bond_angle", "bond_to"))
    lengths = bonds.lengths[mine]
    distance = np.linalg.norm(move)
    row: Row = {"of_half_bond": float(2 * distance / lengths.min())}
    if distance < STILL:
        return row | {"bond_angle": None, "bond_to": None}
    cosines = bonds.vectors[mine] @ move / (lengths * distance)
    nearest = int(cosines.argmax())
    angle = np.degrees(np.arccos(min(1.0, cosines[nearest])))
    return row | {"bond_angle": float(angle), "bond_to": int(bonds.partners[mine[nearest]])}


def _against_plane(bonds: Skeleton, atom: int, move: np.ndarray) -> Row:
    ring = bonds.plane_of(atom)
    if ring is None:
        return {"out_of_plane": None, "plane_angle": None}
    across, distance = abs(float(move @ ring.normal)), float(np.linalg.norm(move))
    angle = None if distance < STILL else float(np.degrees(np.arcsin(min(1.0, across / distance))))
    return {"out_of_plane": across, "plane_angle": angle}


MEANS = ("displacement", "of_half_bond", "bond_angle", "outward", "out_of_plane", "plane_angle")


def by_element(rows: list[Row]) -> dict[str, Row]:
    """Means over the atoms of each element; None where no atom has the quantity."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["element"]].append(row)
    return {key: _mean(group) for key, group in sorted(groups.items())}


def _mean(rows: list[Row]) -> Row:
    means: Row = {"atoms": len(rows)}
    for key in MEANS:
        values = [row[key] for row in rows if row[key] is not None]
        means[key] = float(np.mean(values)) if values else None
    return means


def by_bond(found: Trajectory) -> dict[str, Row]:
    """Means over the ends of each kind of bond: ``C-H`` is carbons' points on their way to H.

    along: component of the displacement along the bond, towards the partner (Angstrom).
    of_bond: the same over the bond's length.
    A bond within a flat ring is a kind of its own: ``C-C ring``.
    """
    moves = found.points[-1] - found.points[0]
    bonds, symbols = found.bonds, list(found.atoms.symbols)
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


def report(found: Trajectory) -> Row:
    """Everything about one structure under one model, as plain values for JSON."""
    rows = measures(found)
    halves = [row["of_half_bond"] for row in rows if row["of_half_bond"] is not None]
    outs = [row["outward"] for row in rows if row["outward"] is not None]
    return {
        "file": found.label,
        "model": found.model,
        "targets": list(found.targets),
        "unit": "Angstrom",
        "layers": len(found.points),
        "mean_displacement": float(np.mean([row["displacement"] for row in rows])),
        "within_half_bond": float(np.mean(np.array(halves) < 1.0)) if halves else None,
        "moved_outward": float(np.mean(np.array(outs) > 0.0)) if outs else None,
        "by_element": by_element(rows),
        "by_bond": by_bond(found),
        "atoms": rows,
    }
