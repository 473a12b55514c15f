"""Who sees whom: all pairs of a structure's points, or those within a cutoff."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from neupol_cli.errors import InputError
from neupol_cli.models.nn.graph import Graph, NeighbourList, where_true

# Above this many atoms a structure's pairs within a cutoff come from a cell list, not from all n^2.
ALL_PAIRS = 600
# All ordered pairs of a structure with more atoms than this would take an hour and more.
COMPLETE_LIMIT = 20_000


def neighbours(graph: Graph, positions: Tensor, cutoff: float | None) -> NeighbourList:
    """All edges between points of the same structure that are closer than ``cutoff``.

    Args:
        graph: the structures; only their counts, cells and periodicity are read.
        positions: (A, 3), or (2A, 3) all atoms and behind them their second points, Angstrom.
        cutoff: Angstrom; None joins all pairs of a structure.

    Returns:
        The list, on the points' device; shifts only for a periodic graph.

    Raises:
        InputError: all pairs of a periodic or of an enormous structure were asked for.
    """
    with torch.no_grad():
        kinds = max(1, positions.shape[0] // max(1, graph.batch.shape[0]))
        largest = kinds * int(graph.sizes.max())
        if cutoff is None:
            check_pairs(largest, graph.pbc is not None)
            return _pairs(graph, kinds)
        if graph.pbc is not None or largest > ALL_PAIRS:
            return _listed(graph, positions.detach(), cutoff)
        return _closer(_pairs(graph, kinds), positions, cutoff, kinds)


def doubled(listed: NeighbourList, atoms: int) -> NeighbourList:
    """The list of A atoms and of the points that lie on them, from that of the atoms alone.

    Four edges of each, and between each atom and its point one either way.
    """
    own = torch.arange(atoms, device=listed.receivers.device)
    receivers, order = torch.cat((listed.receivers, listed.receivers, own)).sort(stable=True)
    pairs = torch.cat((listed.senders, listed.senders + atoms))
    senders = [torch.cat((pairs, other)).index_select(0, order) for other in (own + atoms, own)]
    shifts = listed.shifts
    if shifts is not None:
        none = shifts.new_zeros(atoms, 3)
        shifts = torch.cat((shifts, shifts, none)).index_select(0, order).repeat(2, 1)
    ends = torch.cat((receivers, receivers + atoms)), torch.cat(senders)
    return NeighbourList(*ends, shifts, listed.both_ways, len(receivers))


def check_pairs(atoms: int, periodic: bool, label: str = "a structure") -> None:
    """What a model without a cutoff, which joins all pairs, cannot take.

    Raises:
        InputError: a periodic structure, or one of more than COMPLETE_LIMIT atoms.
    """
    if periodic:
        raise InputError(
            f"{label}: is periodic, and this model has no cutoff; choose one that has, or --no-pbc "
            "for a whole molecule in a wide box (of a dataset: neupol data xyz --no-pbc)"
        )
    if atoms > COMPLETE_LIMIT:
        raise InputError(
            f"{label}: {atoms} atoms are too many for a model without a cutoff, which joins all "
            f"pairs (limit {COMPLETE_LIMIT}); choose one that has"
        )


def _pairs(graph: Graph, kinds: int) -> NeighbourList:
    """Every ordered pair of different points of each structure, on the points' device.

    The kinds of points lie one behind the other: a receiver's senders are its structure's atoms,
    then their second points. With the counts on the host no size is asked for.
    """
    atoms, device = graph.batch.shape[0], graph.counts.device
    points = kinds * graph.sizes
    size = int((points * (points - 1)).sum())
    count = graph.counts.index_select(0, graph.batch)  # (A,) atoms of the structure
    start = (graph.counts.cumsum(0) - graph.counts).index_select(0, graph.batch)
    others = (kinds * count - 1).repeat(kinds)  # (P,)
    receivers = torch.arange(kinds * atoms, device=device)
    own = torch.arange(atoms, device=device) - start
    own = torch.cat([own + kind * count for kind in range(kinds)])  # among its structure's points
    skipped = others.cumsum(0) - others
    receivers = receivers.repeat_interleave(others, output_size=size)  # (E,)
    rank = torch.arange(size, device=device) - skipped.index_select(0, receivers)
    rank = rank + (rank >= own.index_select(0, receivers))
    senders = start.repeat(kinds).index_select(0, receivers) + rank
    if kinds == 2:
        second = rank >= count.repeat(kinds).index_select(0, receivers)
        senders = senders + second * (atoms - count).repeat(kinds).index_select(0, receivers)
    return NeighbourList(receivers, senders, None, True, size // 2 if kinds == 2 else 0)


def _closer(pairs: NeighbourList, positions: Tensor, cutoff: float, kinds: int) -> NeighbourList:
    """Those within the cutoff. How many: the one number that the device is asked for."""
    receivers, senders = pairs.receivers, pairs.senders
    vectors = positions.index_select(0, senders) - positions.index_select(0, receivers)
    inside = vectors.square().sum(-1) < cutoff**2
    counts = torch.stack([half.sum() for half in inside.tensor_split(kinds)]).tolist()
    index = where_true(inside, sum(counts))
    ends = receivers.index_select(0, index), senders.index_select(0, index)
    return NeighbourList(*ends, None, True, counts[0] if kinds == 2 else 0)


def _listed(graph: Graph, positions: Tensor, cutoff: float) -> NeighbourList:
    """The same from cell lists on the CPU, a structure at a time; periodic images included."""
    points, atoms = positions.cpu().double().numpy(), graph.batch.shape[0]
    periodic = graph.cell is not None and graph.pbc is not None
    cells = graph.cell.cpu().double().numpy() if graph.cell is not None else None
    pbcs = graph.pbc.cpu().numpy() if graph.pbc is not None else None
    lists: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    start = 0
    for k, count in enumerate(graph.sizes.tolist()):
        cell = np.zeros((3, 3)) if cells is None else cells[k]
        pbc = np.zeros(3, bool) if pbcs is None else pbcs[k]
        own = np.arange(start, start + count)
        own = np.concatenate([own + first for first in range(0, len(points), atoms)])
        i, j, shifts = cell_list(points[own], cell, pbc, cutoff)
        lists.append((own[i], own[j], shifts))
        start += count
    receivers, senders, shifts = (np.concatenate(column) for column in zip(*lists, strict=True))
    order = np.argsort(receivers >= atoms, kind="stable")  # all atoms, then all second points
    first_moving = int((receivers < atoms).sum()) if len(points) > atoms else 0

    def sent(column: np.ndarray) -> Tensor:
        return torch.from_numpy(column[order]).to(positions.device, non_blocking=True)

    seen = sent(shifts) if periodic else None
    return NeighbourList(sent(receivers), sent(senders), seen, not periodic, first_moving)


def cell_list(
    points: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One structure's edges: (E,) receivers, (E,) senders, (E, 3) cell shifts, sorted by receiver.

    The search itself is vesin's. Missing lattice vectors along open directions are put in.
    """
    import vesin

    finder = vesin.NeighborList(cutoff=cutoff, full_list=True)
    box = _completed(points, cell, pbc, cutoff)
    i, j, shifts = finder.compute(points, box, periodic=list(map(bool, pbc)), quantities="ijS")
    order = np.lexsort((j, i))
    return i[order].astype(np.int64), j[order].astype(np.int64), shifts[order].astype(np.int64)


def _completed(points: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> np.ndarray:
    """The cell with an orthogonal vector, longer than the points reach, along open directions."""
    from ase.geometry import complete_cell

    closed = np.where(np.asarray(pbc, bool)[:, None], cell, 0.0)
    box = complete_cell(closed)
    reach = np.ptp(points, axis=0).max() + 2 * cutoff
    return np.where(np.asarray(pbc, bool)[:, None], box, box * reach)
