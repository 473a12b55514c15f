"""Which periodic images of a structure's atoms points may see."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neupol_cli.models.nn.graph import Graph


@dataclass(frozen=True)
class Images:
    """Atoms and those of their periodic images that a probe may see.

    Attributes:
        atom_index: (G,) which atom each is an image of, ascending.
        points: (G, 3) where it is, float64, Angstrom.
        shifts: (G, 3) its position less its atom's.
    """

    atom_index: Tensor
    points: Tensor
    shifts: Tensor


def periodic_images(
    graph: Graph, cutoff: float, low: Tensor | None = None, high: Tensor | None = None
) -> Images:
    """All images within ``cutoff`` of the box of fractional coordinates [low, high].

    Args:
        graph: B structures; without periodicity every atom is its own only image.
        cutoff: Angstrom.
        low, high: (B, 3) fractional, along periodic directions; [0, 1] if not given.

    Returns:
        The images, atom by atom.
    """
    positions = graph.positions.detach().double()
    atoms = torch.arange(positions.shape[0], device=positions.device)
    if graph.cell is None or graph.pbc is None:
        return Images(atoms, positions, torch.zeros_like(positions))
    cell = completed(graph.cell.double(), graph.pbc)
    inverse = torch.linalg.inv(cell)
    margin = cutoff * torch.linalg.vector_norm(inverse, dim=1) + 1e-9  # (B, 3): cutoff / heights
    low = (torch.zeros_like(margin) if low is None else low) - margin
    high = (torch.ones_like(margin) if high is None else high) + margin
    fractional = torch.einsum("ax,axk->ak", positions, inverse[graph.batch])  # (A, 3)
    first = (low[graph.batch] - fractional).ceil()
    last = (high[graph.batch] - fractional).floor()
    open_ = ~graph.pbc[graph.batch]
    first, last = first.masked_fill(open_, 0), last.masked_fill(open_, 0)
    atom_index, cells = _box_points(first.long(), last.long())
    shifts = torch.einsum("gk,gkx->gx", cells.double(), cell[graph.batch[atom_index]])
    return Images(atom_index, positions[atom_index] + shifts, shifts)


def fractional_bounds(graph: Graph, points: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The boxes of fractional coordinates that hold some points.

    Args:
        graph: B structures.
        points: (B, M, 3) Angstrom.

    Returns:
        (B, 3) lowest and (B, 3) highest coordinates; None for both without periodicity.
    """
    if graph.cell is None or graph.pbc is None:
        return None, None
    cell = completed(graph.cell.double(), graph.pbc)
    fractional = points.double() @ torch.linalg.inv(cell)
    return fractional.amin(1), fractional.amax(1)


def completed(cell: Tensor, pbc: Tensor) -> Tensor:
    """Cells (B, 3, 3) whose open directions carry a unit vector orthogonal to the others."""
    from ase.geometry import complete_cell

    closed = torch.where(pbc[:, :, None], cell, 0.0).cpu().numpy()
    boxes = [torch.as_tensor(complete_cell(c), dtype=cell.dtype) for c in closed]
    return torch.stack(boxes).to(cell.device)


def _box_points(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """All integer points of the boxes [first, last] (A, 3): (G,) whose, ascending, and (G, 3)."""
    sizes = (last - first + 1).clamp(min=0)  # (A, 3)
    counts = sizes.prod(1)
    box_index = torch.arange(counts.shape[0], device=counts.device).repeat_interleave(counts)
    rank = torch.arange(box_index.shape[0], device=counts.device)
    rank = rank - (counts.cumsum(0) - counts)[box_index]
    _, b, c = sizes[box_index].unbind(1)
    places = torch.stack((rank // (b * c), rank // c % b, rank % c), 1)
    return box_index, places + first[box_index]
