"""DimeNet++ here against PyTorch Geometric's: same weights, same molecules, one thread, one run.

    pip install torch_geometric sympy
    python benchmarks/dimenet_speed.py qm9.h5 [--batch 32] [--rounds 5]

Both sides take turns in one process under neupol's allocator settings; times are the process's own
CPU seconds, so that other work on the machine matters little. The published code gets its edges and
triplets ready made, outside the clock (its own search needs torch-cluster and torch-sparse); ours
finds them in its time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from harness import in_turns
from torch import Tensor, nn

from neupol_cli import registry
from neupol_cli.allocator import keep_large_blocks
from neupol_cli.io import hdf5
from neupol_cli.models.dimenet.triplets import Triplets
from neupol_cli.models.nn.graph import Edges, Graph, ragged
from neupol_cli.models.nn.neighbours import neighbours
from neupol_cli.models.streaming import by_positions

SIZES = {
    "hidden_channels": 128,
    "out_channels": 1,
    "num_blocks": 4,
    "int_emb_size": 64,
    "basis_emb_size": 8,
    "out_emb_channels": 256,
    "num_spherical": 7,
    "num_radial": 6,
    "cutoff": 5.0,
    "max_num_neighbors": 32,
}


def published(seed: int) -> nn.Module:
    """PyTorch Geometric's network, its output not zero, as `output_initializer` may have it."""
    from torch_geometric.nn.models import DimeNetPlusPlus

    torch.manual_seed(seed)
    return DimeNetPlusPlus(**SIZES, output_initializer="glorot_orthogonal")


def batch_of(path: str, size: int, seed: int) -> Graph:
    """Some random molecules of a dataset."""
    data = hdf5.read(path)
    chosen = torch.randperm(len(data.offsets) - 1, generator=torch.Generator().manual_seed(seed))
    rows, counts = ragged(torch.from_numpy(data.offsets), chosen[:size])
    numbers, positions = (torch.from_numpy(a) for a in (data.numbers, data.positions))
    return Graph.from_arrays(numbers[rows], positions[rows].float(), counts)


def prepared(network: Any, graph: Graph) -> Callable[[Tensor], Tensor]:
    """Calls the published network with its edges and triplets already found."""
    import torch_geometric.nn.models.dimenet as module

    topology = neighbours(graph, graph.positions, SIZES["cutoff"])
    i, j = topology.receivers, topology.senders
    edges = Edges.of(topology, graph.positions, graph.batch)
    triplets = Triplets.of(edges, graph.numbers.shape[0])
    first, second = triplets.incoming, triplets.onward  # k -> j, j -> i
    listed = i, j, i[second], j[second], j[first], first, second
    module.radius_graph = lambda *_, **__: torch.stack((j, i))
    module.triplets = lambda *_, **__: listed
    return lambda positions: network(graph.numbers, positions, graph.batch)


def compare(name: str, ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> None:
    """One line: medians over turns A B A B ..., after one turn of each to warm up."""
    turns = in_turns({"ours": ours, "theirs": theirs}, rounds)
    a, b = 1e3 * turns.median("ours"), 1e3 * turns.median("theirs")
    print(f"{name:28s} {a:9.1f} ms {b:9.1f} ms   {turns.ratio_line('theirs', 'ours')}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    keep_large_blocks()
    torch.set_num_threads(1)

    network = published(0)
    graph = batch_of(arguments.data, arguments.batch, 0)
    model = registry.from_published("dimenet", network.state_dict(), SIZES)
    call = prepared(network, graph)
    target = torch.randn(graph.size, 1)

    with torch.no_grad():
        a, b = model.network(graph), call(graph.positions)
    print(f"{graph.size} molecules, {graph.numbers.shape[0]} atoms")
    print(f"outputs differ by {float((a - b).abs().max() / b.abs().max()):.1e} of the largest")
    print(f"{'':28s} {'neupol':>12s} {'published':>12s}   ratio")

    def inferred(work: Callable[[], Any]) -> Callable[[], Any]:
        return torch.no_grad()(work)

    def energy_step(parameters: Any, energies: Callable[[], Tensor]) -> Callable[[], Any]:
        def step() -> None:
            loss = (energies() - target).abs().mean()
            torch.autograd.grad(loss, [p for p in parameters if p.requires_grad])

        return step

    def force_step(parameters: Any, energies: Callable[[Tensor], Tensor]) -> Callable[[], Any]:
        def step() -> None:
            positions = graph.positions.clone().requires_grad_()
            values = energies(positions)
            (force,) = torch.autograd.grad(values.sum(), positions, create_graph=True)
            loss = (values - target).abs().mean() + force.abs().mean()
            torch.autograd.grad(loss, [p for p in parameters if p.requires_grad])

        return step

    def learnt(positions: Tensor) -> Tensor:
        with by_positions(learnt=True):  # as training on forces says it
            return model.network(graph.at(positions))

    own, other = list(model.backbone.parameters()), list(network.parameters())
    rounds = arguments.rounds
    here, there = (lambda: model.network(graph)), (lambda: call(graph.positions))
    compare("inference", inferred(here), inferred(there), rounds)
    compare("training", energy_step(own, here), energy_step(other, there), rounds)
    compare("training with forces", force_step(own, learnt), force_step(other, call), rounds)


if __name__ == "__main__":
    main()
