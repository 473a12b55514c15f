"""Neural Polarization: every atom gets a second, movable point (Kwak and Jo; eqs. 4-8).

    x~_0 = x
    [v_{t+1}; v~_{t+1}] = M_t([x; x~_t], [v_t; v~_t])
    x~_{t+1} = x~_t + pi_t(v~_{t+1})

As published, the direction from x_i to x~_i comes into being at full strength with the first
1e-10 Angstrom of a displacement, and forces with it. Here distances and directions between points
that come close are softened (nn/graph.py), so that energies are smooth where a point crosses
another; ``softening = 0`` is the published formula.

Written once for every backbone. Points are laid out as all atoms, then all movable points, so
that either half is a slice. What nobody reads is left out: the last layer updates movable points
only, and has no pi, since an invariant readout never sees x~_T. Until points first move, all that
depends on distances is that of the atoms' own edges (Edges.coinciding).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neupol_cli.models.base import Backbone
from neupol_cli.models.nn.graph import Edges, Graph, NeighbourList
from neupol_cli.models.nn.neighbours import check_pairs, doubled, neighbours
from neupol_cli.models.polarization_modes import polarization_mode
from neupol_cli.models.streaming import EdgeRanges, is_large


class Unpolarized(nn.Module):
    """The backbone as published: one point an atom."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()

    def forward(self, backbone: Backbone, graph: Graph) -> tuple[Tensor, list[Tensor]]:
        """The points' last state (A, dim), and no trajectory."""
        types, points, cutoff = backbone.types(graph.numbers), graph.positions, backbone.cutoff
        listed = None if cutoff is None else neighbours(graph, points, cutoff)
        if ranges := edge_ranges(backbone, graph, points, listed):
            state = ranges.apply(backbone.embed, types)
            for layer in backbone.layers:
                state = ranges.apply(layer, state)
            return state, []
        listed = listed or neighbours(graph, points, cutoff)
        return backbone(types, Edges.of(listed, points, graph.batch, graph.cell)), []


class MovablePoints(nn.Module):
    """The backbone on atoms and movable points; the latter's last state is the answer."""

    moves = True

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        count = len(backbone.layers) - 1
        self.projections = nn.ModuleList(backbone.projection() for _ in range(count))

    def forward(self, backbone: Backbone, graph: Graph) -> tuple[Tensor, list[Tensor]]:
        """The movable points' last state (A, dim), and x~_0 .. x~_{T-1}, each (A, 3)."""
        fixed = graph.positions
        atoms = fixed.shape[0]
        moving, path = fixed, [fixed]
        edges = _edges(backbone, graph, moving)
        types = backbone.types(graph.numbers)
        state = edges.apply(backbone.embed, torch.cat((types, types + backbone.species_count)))
        for layer, projection in zip(backbone.layers, self.projections, strict=False):
            state = edges.apply(layer, state)
            if self.moves:
                moving = moving + projection(state[atoms:])
                edges = _edges(backbone, graph, moving, edges)
            path.append(moving)
        state = edges.received_by_moving(2 * atoms).apply(backbone.layers[-1], state)
        return state[-atoms:], path


class FrozenPoints(MovablePoints):
    """The ablation {x, x} of Table 3: same points, same parameters, no motion."""

    moves = False


def polarized(name: str, backbone: Backbone) -> nn.Module:
    """Neural Polarization of a backbone: ``off``, ``frozen`` or ``movable``.

    Raises:
        UsageError: another name.
    """
    mode = polarization_mode(name)
    if mode.points_per_atom == 1:
        return Unpolarized(backbone)
    return MovablePoints(backbone) if mode.moves else FrozenPoints(backbone)


def edge_ranges(
    backbone: Backbone, graph: Graph, points: Tensor, listed: NeighbourList | None
) -> EdgeRanges | None:
    """The edges among points (P, 3) a range at a time, where they are too many to be held.

    ``listed`` None joins all pairs. A batch of several structures is cut by structures.
    """
    if graph.size > 1 or not backbone.by_ranges:
        return None
    count = len(points) * (len(points) - 1) if listed is None else len(listed.receivers)
    if not is_large(count):
        return None
    if listed is None:
        check_pairs(graph.numbers.shape[0], graph.pbc is not None)
    softening = 0.0 if len(points) == graph.numbers.shape[0] else backbone.config.softening
    return EdgeRanges(points, graph.numbers.shape[0], listed, graph.cell, softening)


def _edges(
    backbone: Backbone, graph: Graph, moving: Tensor, before: Edges | EdgeRanges | None = None
) -> Edges | EdgeRanges:
    """The edges among atoms and movable points, all of them or by ranges."""
    points, cutoff = torch.cat((graph.positions, moving)), backbone.cutoff
    if is_large(len(points) ** 2):  # or else nothing is listed twice
        listed = None if cutoff is None else neighbours(graph, points, cutoff)
        if ranges := edge_ranges(backbone, graph, points, listed):
            return ranges
    known = before if isinstance(before, Edges) else None
    return movable_edges(graph, moving, cutoff, backbone.config.softening, known)


def movable_edges(
    graph: Graph,
    moving: Tensor,
    cutoff: float | None,
    softening: float,
    before: Edges | None = None,
) -> Edges:
    """The edges among atoms and movable points at ``moving`` (A, 3).

    Every pair of the 2A points counts, an atom and its own movable point too. Without a cutoff
    the pairs of ``before`` are still the right ones; with one they are sought anew, so that a
    point that crosses the cutoff is met by the envelope and not by a jump.
    """
    points = torch.cat((graph.positions, moving))
    batch = torch.cat((graph.batch, graph.batch))
    atoms = _coinciding(graph, moving, cutoff)
    if before is not None and cutoff is None:
        ends = before.receivers, before.senders
        listed = NeighbourList(*ends, None, before.both_ways, before.first_moving)
    elif atoms is not None and cutoff is not None:
        listed = doubled(atoms, graph.batch.shape[0])
    else:
        listed = neighbours(graph, points, cutoff)
    edges = Edges.of(listed, points, batch, graph.cell, softening)
    if atoms is not None:
        edges.coinciding = Edges.of(atoms, moving, graph.batch, graph.cell, softening)
    return edges


def _coinciding(graph: Graph, moving: Tensor, cutoff: float | None) -> NeighbourList | None:
    """The edges among the atoms alone if no point has moved yet."""
    return neighbours(graph, moving, cutoff) if moving is graph.positions else None
