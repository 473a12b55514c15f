"""Parts of the equivariant transformer: shared pairs, attention, the layout of a state."""

from __future__ import annotations

from typing import Any

import ase
import numpy as np
import pytest
import torch

from neupol_cli import registry
from neupol_cli.models.equivariant_transformer import attention
from neupol_cli.models.equivariant_transformer.attention import AttentionShape, MessageInputs
from neupol_cli.models.equivariant_transformer.kernels import (
    attention_compiled,
    attention_function,
    attention_tiled,
    choice,
)
from neupol_cli.models.kernels import compiler as kernel_compiler
from neupol_cli.models.nn.graph import Edges, Graph
from neupol_cli.models.nn.neighbours import neighbours
from neupol_cli.models.nn.unique_edges import UniqueEdges
from tests import compiler


def molecule(seed: int = 0, atoms: int = 7) -> ase.Atoms:
    rng = np.random.default_rng(seed)
    places = np.stack(np.unravel_index(np.arange(27), (3, 3, 3)), 1) * 1.4
    positions = places[rng.permutation(27)[:atoms]] + rng.normal(0, 0.1, (atoms, 3))
    return ase.Atoms(rng.choice([1, 6, 7, 8], atoms), positions)


def edges_of(molecules: ase.Atoms, cutoff: float = 3.0) -> Edges:
    batch = Graph.from_atoms([molecules], torch.float64)
    topology = neighbours(batch, batch.positions, cutoff)
    return Edges.of(topology, batch.positions, batch.batch, batch.cell)


def received_by(edges: Edges, first: int) -> Edges:
    """The edges that point ``first`` and later ones receive: one way only, for some pairs."""
    kept = edges.receivers >= first
    return Edges(edges.receivers[kept], edges.senders[kept], edges.vectors[kept])


def directed(unique: UniqueEdges) -> set[tuple[int, int, float, float, float]]:
    """The edges that some unique edges stand for."""
    edges = set()
    for tile, directions in unique.tiles(5):
        for to in directions:
            vectors = (unique.edges.vectors[tile] * to.sign).tolist()
            ends = zip(to.receivers.tolist(), to.senders.tolist(), strict=True)
            edges |= {(*n, *np.round(v, 9)) for n, v in zip(ends, vectors, strict=True)}
    return edges


def test_unique_edges_stand_for_every_edge_once() -> None:
    small = ase.Atoms("CO", [[0, 0, 0], [1.2, 0.3, 0.1]], cell=[2.5, 3.6, 4.0], pbc=True)
    for edges, halved in (
        (edges_of(molecule()), True),
        (received_by(edges_of(molecule()), 3), False),
        (edges_of(small), False),
    ):
        vectors = np.round(edges.vectors.numpy(), 9).tolist()
        names = zip(edges.receivers.tolist(), edges.senders.tolist(), strict=True)
        expected = {(*n, *v) for n, v in zip(names, vectors, strict=True)}
        unique = UniqueEdges.of(edges)
        assert directed(unique) == expected
        assert len(unique) + unique.mutual == len(expected) == len(vectors)
        assert (2 * len(unique) == len(expected)) == halved


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("has_vectors", [True, False])
@pytest.mark.parametrize("loops", ["compiled", "compiled, two threads", "tiled"])
def test_tiles_and_their_derivatives_are_the_plain_formula(
    loops: str, has_vectors: bool, smooth: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUPOL_KERNELS", "1")
    if loops == "tiled":
        monkeypatch.setattr(kernel_compiler, "library", lambda *_: None)
    elif not compiler.THERE:
        pytest.skip("there is no C++ compiler")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2 if "two" in loops else 1)
    torch.manual_seed(0)
    monkeypatch.setattr(attention_tiled, "TILE_NUMBERS", 20 * 8)
    monkeypatch.setattr(attention_compiled, "TILE_NUMBERS", 16 * 32)
    edges = UniqueEdges.of(received_by(edges_of(molecule(0, 9), 5.0), 2)).with_self_loops(9)
    count, points, hidden, blocks = len(edges), 9, 8, 4 if has_vectors else 3
    sizes = MessageInputs(
        points=torch.empty(points, 4 * hidden),
        vectors=torch.empty(points, 3 if has_vectors else 0, hidden),
        encoded=torch.empty(count, 5),
        weight=torch.empty(blocks * hidden, 5),
        bias=torch.empty(blocks * hidden),
        envelope=torch.empty(count, 1),
        directions=torch.empty(count, 3),
    )
    shape = AttentionShape(2, smooth)
    library = attention_compiled.library(sizes.points.double(), shape)
    assert (library is None) == (loops == "tiled")
    parts = MessageInputs(*(torch.randn_like(s, dtype=torch.float64) for s in sizes))
    there = [k for k, part in enumerate(parts) if part.numel()]
    known = [parts[k].requires_grad_() for k in there]
    gradient = [
        torch.randn(points, *rest, dtype=torch.float64, requires_grad=True)
        for rest in ((hidden,), (3, hidden))
    ]
    rates = [torch.randn_like(part) for part in parts]
    rates_of_rates = [torch.randn_like(part) for part in (*gradient, *known)]

    def derivatives(function: Any, weights_too: bool) -> list[torch.Tensor]:
        out = function(parts, edges, shape)
        first = torch.autograd.grad(out, known, gradient, create_graph=True)
        moved = [weights_too or MessageInputs._fields[k] not in ("weight", "bias") for k in there]
        inputs = [*gradient, *known]
        second = torch.autograd.grad(
            [derivative for derivative, moves in zip(first, moved, strict=True) if moves],
            inputs,
            [rates[k] for k, moves in zip(there, moved, strict=True) if moves],
            create_graph=weights_too,
        )
        third: tuple[torch.Tensor, ...] = ()
        if weights_too:
            third = torch.autograd.grad(second, inputs, rates_of_rates)
        return [*out, *first, *second, *third]

    def second_of_squares(function: Any) -> tuple[torch.Tensor, ...]:
        """Where the gradient depends on the parts, and weights have a rate."""
        x, y = function(parts, edges, shape)
        first = torch.autograd.grad(x.square().sum() + y.square().sum(), known, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), known)

    for weights_too in (False, True):
        by_tiles = derivatives(choice.attention, weights_too)
        by_formula = derivatives(attention.attention, weights_too)
        for a, b in zip(by_tiles, by_formula, strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-12 * max(1, b.abs().max().item()))
    both = (second_of_squares(f) for f in (choice.attention, attention.attention))
    for a, b in zip(*both, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12 * max(1, b.abs().max().item()))
    still = parts._replace(
        encoded=parts.encoded.detach(),
        envelope=parts.envelope.detach(),
        directions=parts.directions.detach(),
    )
    outs = [f(still, edges, shape) for f in (choice.attention, attention.attention)]
    trained = [part for part in still if part.requires_grad]
    ours, theirs = (torch.autograd.grad(out, trained, gradient) for out in outs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12 * max(1, b.abs().max().item()))


def test_a_state_has_scalars_before_vectors() -> None:
    hidden = 4
    state = torch.arange(3 * 4 * hidden, dtype=torch.float64).view(3, -1)
    s, v = attention.unpacked(state)
    for point in range(3):
        for h in range(hidden):
            assert s[point, h] == state[point, h]
            for c in range(3):
                assert v[point, c, h] == state[point, hidden + hidden * c + h]
    assert torch.equal(attention.packed(s, v), state)


@pytest.mark.parametrize("mode", ["off", "movable"])
def test_no_kernel_runs_where_they_are_switched_off(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    config = {"hidden": 16, "layers": 3, "heads": 2, "encoding_size": 8, "polarization": mode}
    model = registry.build("equivariant-transformer", config).double()
    graph = Graph.from_atoms([molecule()], torch.float64)

    def energies_and_forces() -> tuple[torch.Tensor, torch.Tensor]:
        at = graph.at(graph.positions.clone().requires_grad_())
        energy = model(at)
        (slope,) = torch.autograd.grad(energy.sum(), at.positions, create_graph=True)
        model.zero_grad()
        slope.square().sum().backward()
        return energy.detach(), slope.detach()

    monkeypatch.setenv("NEUPOL_KERNELS", "1")
    by_kernel = energies_and_forces()
    for function in (attention_function.Attention, attention_function.AttentionGradient):
        monkeypatch.setattr(function, "apply", None)
    with pytest.raises(TypeError):
        energies_and_forces()
    monkeypatch.setenv("NEUPOL_KERNELS", "0")
    monkeypatch.setattr(kernel_compiler, "_load", None)
    for one, other in zip(energies_and_forces(), by_kernel, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
