"""The equivariant transformer against its published code: one thread, same weights, same batch.

    git clone https://github.com/torchmd/torchmd-net && git -C torchmd-net checkout 833c077
    python benchmarks/equivariant_transformer_speed.py --published torchmd-net --data qm9.h5
    python benchmarks/equivariant_transformer_speed.py --published torchmd-net --forces \\
        --data aspirin.h5

The published neighbour list, which needs compiled extensions, is replaced by edges that are found
beforehand and not timed; ours finds its own inside the timed step. Both sides run under
``keep_large_blocks`` and take turns, A B A B; the first line
says how far the two outputs are apart. Times are the processor's, so that other work on the same
machine, which takes turns with both sides, counts for neither.
"""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from batches import batch_of
from harness import in_turns
from torch import Tensor, nn

from neupol_cli import registry
from neupol_cli.allocator import keep_large_blocks
from neupol_cli.models.nn.graph import Graph
from neupol_cli.models.nn.neighbours import neighbours

ARGUMENTS: dict[str, Any] = {
    "model": "equivariant-transformer",
    "activation": "silu",
    "attn_activation": "silu",
    "aggr": "add",
    "reduce_op": "add",
    "atom_filter": -1,
    "cutoff_lower": 0.0,
    "cutoff_upper": 5.0,
    "distance_influence": "both",
    "max_num_neighbors": 64,
    "max_z": 100,
    "neighbor_embedding": True,
    "output_model": "Scalar",
    "rbf_type": "expnorm",
    "trainable_rbf": False,
    "vector_cutoff": True,
    "precision": 32,
    "prior_model": None,
    "num_heads": 8,
}
QM9 = {"embedding_dimension": 256, "num_layers": 8, "num_rbf": 64, "derivative": False}
WHO = ("ours", "published")
MD17 = {"embedding_dimension": 128, "num_layers": 6, "num_rbf": 32, "derivative": True}


class Given(nn.Module):
    """Stands in for the published neighbour list: edges found beforehand, self loops included."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("box", torch.zeros(3, 3))
        self.edges: Tensor = torch.empty(2, 0, dtype=torch.long)

    def forward(self, positions: Tensor, batch: Tensor, box: Any = None) -> tuple[Tensor, ...]:
        receivers, senders = self.edges
        vectors = positions.index_select(0, receivers) - positions.index_select(0, senders)
        apart = (receivers != senders).nonzero().squeeze(1)
        lengths = torch.linalg.vector_norm(vectors.index_select(0, apart), dim=1)
        return self.edges, lengths.new_zeros(len(vectors)).index_copy(0, apart, lengths), vectors


def published(checkout: Path, arguments: dict[str, Any]) -> Any:
    """The published network without its compiled extensions and its trainer's dependencies."""
    empty: dict[str, dict[str, Any]] = {
        "torchmdnet": {"__path__": [str(checkout / "torchmdnet")]},
        "torchmdnet.extensions": {"__path__": []},
        "torchmdnet.extensions.ops": {"get_neighbor_pairs_kernel": None},
        "torchmdnet.utils": {"deprecated_class": lambda c: c, "atomic_masses": None},
        "torchmdnet.priors": {"__path__": []},
        "torchmdnet.priors.base": {"BasePrior": type("BasePrior", (nn.Module,), {})},
        "lightning_utilities": {"__path__": []},
        "lightning_utilities.core": {"__path__": []},
        "lightning_utilities.core.rank_zero": {"rank_zero_warn": print},
    }
    for name, content in empty.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__.update(content)
    sys.modules["torchmdnet.priors"].base = sys.modules["torchmdnet.priors.base"]  # type: ignore
    from torchmdnet.models.model import create_model  # type: ignore

    network = create_model(arguments)
    network.representation_model.distance = Given()
    return network


def with_self_loops(graph: Graph, cutoff: float) -> Tensor:
    """(2, E) receivers and senders, sorted, as the published list has them."""
    listed = neighbours(graph, graph.positions, cutoff)
    own = torch.arange(len(graph.numbers))
    edges = torch.stack((torch.cat((listed.receivers, own)), torch.cat((listed.senders, own))))
    return edges[:, edges[0].argsort(stable=True)].contiguous()


class Side:
    """One implementation: inference and a step of training with AdamW."""

    def __init__(self, run: Callable[[bool], tuple[Tensor, Tensor]], network: nn.Module) -> None:
        self.run = run
        self.parameters = list(network.parameters())
        self.optimiser = torch.optim.AdamW(self.parameters, lr=1e-6, weight_decay=0, fused=True)

    def train(self) -> None:
        self.optimiser.zero_grad()
        energies, forces = self.run(True)
        loss = 0.2 * energies.square().mean() + 0.8 * forces.square().sum() / max(len(forces), 1)
        loss.backward(inputs=self.parameters)
        self.optimiser.step()

    def infer(self) -> None:
        self.run(False)


def theirs(network: Any, graph: Graph, forces: bool) -> Side:
    network.representation_model.distance.edges = with_self_loops(graph, 5.0)

    def run(train: bool) -> tuple[Tensor, Tensor]:
        network.train(train)
        with torch.set_grad_enabled(train or forces):
            energies, force = network(graph.numbers, graph.positions.clone(), graph.batch)
        return energies[:, 0], force if forces else energies[:0]

    return Side(run, network)


def ours(network: Any, graph: Graph, forces: bool) -> Side:
    def run(train: bool) -> tuple[Tensor, Tensor]:
        if forces:
            values, force, _ = network.derivatives(graph, create_graph=train)
            return values[:, 0].float(), force
        with torch.set_grad_enabled(train):
            values = network.network(graph)[:, 0]
        return values, values[:0]

    return Side(run, network)


def compare(sides: tuple[Side, Side], size: int, rounds: int, count: int) -> None:
    (e, f), (e2, f2) = (side.run(False) for side in sides)
    apart = (e - e2).abs().max() / e2.abs().max()
    print(f"energies differ by {apart:.1e} of the largest", end="")
    print(f", forces by {(f - f2).abs().max() / f2.abs().max():.1e}" if len(f2) else "")
    for name in ("train", "infer"):
        work = {who: getattr(side, name) for who, side in zip(WHO, sides, strict=True)}
        turns = in_turns(work, rounds, count)
        a, b = (size / turns.median(who) for who in WHO)
        print(f"{name}: ours {a:.1f}/s, published {b:.1f}/s, ", end="")
        print(f"{turns.ratio_line('published', 'ours')} times as fast", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--forces", action="store_true")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_large_blocks()
    arguments = ARGUMENTS | (MD17 if options.forces else QM9)
    size = options.batch_size or (8 if options.forces else 128)
    graph = batch_of(options.data, size)
    reference = published(options.published, arguments)
    weights = {k: v.clone() for k, v in reference.state_dict().items()}
    network = registry.from_published("equivariant-transformer", weights, arguments)
    sides = ours(network, graph, options.forces), theirs(reference, graph, options.forces)
    compare(sides, size, options.rounds, options.count or (10 if options.forces else 1))


if __name__ == "__main__":
    main()
