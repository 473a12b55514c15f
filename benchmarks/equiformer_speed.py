"""Equiformer against its published code: one thread, same weights, same batch, full size.

    git clone https://github.com/atomicarchitects/equiformer && git -C equiformer checkout 64cb786
    neupol data qm9 -o qm9.h5
    python benchmarks/equiformer_speed.py --published equiformer --data qm9.h5
    python benchmarks/equiformer_speed.py --parts --data qm9.h5

The published code needs four compiled packages of which it uses four functions; they are replaced
by the same sums in plain PyTorch. Its edges are found beforehand and not timed; ours finds its own
inside the timed step. Both sides run under ``keep_large_blocks`` and take turns, A B A B; every
round prints both times, and the first lines say how far outputs and gradients are apart. Dropout
is off while outputs are compared and on, as published, while training is timed. Times are the
processor's, so that other work on the machine lengthens neither side. ``--parts`` times ours
against ours with one thing undone.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from batches import batch_of
from torch import Tensor, nn

from neupol_cli import registry
from neupol_cli.allocator import keep_large_blocks
from neupol_cli.models.nn import linear
from neupol_cli.models.nn.graph import Graph
from neupol_cli.models.nn.neighbours import neighbours

ARGUMENTS: dict[str, Any] = {
    "irreps_in": "5x0e",
    "irreps_node_embedding": "128x0e+64x1e+32x2e",
    "num_layers": 6,
    "irreps_sh": "1x0e+1x1e+1x2e",
    "max_radius": 5.0,
    "number_of_basis": 128,
    "fc_neurons": [64, 64],
    "irreps_feature": "512x0e",
    "irreps_head": "32x0e+16x1e+8x2e",
    "num_heads": 4,
    "nonlinear_message": True,
    "irreps_mlp_mid": "384x0e+192x1e+96x2e",
    "norm_layer": "layer",
    "alpha_drop": 0.2,
}


def scatter(values: Tensor, index: Tensor, dim: int = 0, dim_size: int | None = None) -> Tensor:
    """torch_scatter's sum over rows."""
    size = dim_size or int(index.max()) + 1
    return values.new_zeros(size, *values.shape[1:]).index_add(dim, index, values)


def softmax(values: Tensor, index: Tensor) -> Tensor:
    """torch_geometric's softmax over rows of the same index."""
    size = int(index.max()) + 1
    rows = index.view(-1, *[1] * (values.dim() - 1)).expand_as(values)
    low = values.new_full((size, *values.shape[1:]), -torch.inf)
    largest = low.scatter_reduce(0, rows, values.detach(), "amax")
    raised = (values - largest[index]).exp()
    return raised / (scatter(raised, index, dim_size=size)[index] + 1e-16)


def glorot(weight: Tensor) -> None:
    """torch_geometric's initialisation."""
    nn.init.xavier_uniform_(weight)


def module(name: str, **content: Any) -> types.ModuleType:
    """A module of this content under this name."""
    made = types.ModuleType(name)
    made.__dict__.update(content)
    sys.modules[name] = made
    return made


def published(checkout: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The published network, and a dictionary whose "edges" it reads as its neighbour list."""
    given: dict[str, Any] = {}
    module("torch_cluster", radius_graph=lambda *_, **__: given["edges"])
    module("torch_scatter", scatter=scatter)
    nets = module("torch_geometric.nn", inits=types.SimpleNamespace(glorot=glorot))
    nets.__dict__.update(global_mean_pool=None, global_max_pool=None)
    utils = module("torch_geometric.utils", softmax=softmax, degree=None)
    module("torch_geometric", nn=nets, utils=utils)
    for name in ("", ".models", ".models.gemnet", ".models.gemnet.layers"):
        module(f"ocpmodels{name}", __path__=[])
    module("ocpmodels.models.gemnet.layers.radial_basis", RadialBasis=nn.Identity)
    module("nets", __path__=[str(checkout / "nets")])
    code = importlib.import_module("nets.graph_attention_transformer")
    return code.GraphAttentionTransformer(**ARGUMENTS), given


class Side:
    """One implementation: inference, and a step of training with AdamW."""

    def __init__(self, network: nn.Module, run: Callable[[], Tensor]) -> None:
        self.network, self.run = network, run
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=1e-7, weight_decay=0)

    def output(self) -> tuple[Tensor, float]:
        """Predictions, and the length of the gradient of their squares."""
        self.network.eval()
        self.optimiser.zero_grad()
        values = self.run()
        values.square().sum().backward()
        squares = [p.grad.square().sum() for p in self.network.parameters() if p.grad is not None]
        return values.detach(), float(torch.stack(squares).sum().sqrt())

    def train(self) -> None:
        self.network.train()
        self.optimiser.zero_grad()
        self.run().abs().mean().backward()
        self.optimiser.step()

    def infer(self) -> None:
        self.network.eval()
        with torch.no_grad():
            self.run()


def seconds(work: Callable[[], None], count: int) -> float:
    start = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - start) / count


def compare(sides: tuple[Side, Side], size: int, rounds: int, count: int) -> None:
    (e, g), (e2, g2) = (side.output() for side in sides)
    apart = (e - e2).abs().max() / e2.abs().max()
    print(
        f"outputs differ by {apart:.1e} of the largest, gradients by {abs(g / g2 - 1):.1e}",
        flush=True,
    )
    for name in ("train", "infer"):
        for side in sides:
            getattr(side, name)()
        ratios = []
        for _ in range(rounds):
            a, b = (seconds(getattr(side, name), count) for side in sides)
            ratios.append(b / a)
            print(
                f"{name}: ours {size / a:.1f}/s, published {size / b:.1f}/s, {b / a:.2f}x",
                flush=True,
            )
        print(f"{name}: median {sorted(ratios)[len(ratios) // 2]:.2f} times as fast")


def parts(graph: Graph, rounds: int) -> None:
    """Ours against itself: without kernels, and with PyTorch's own matrix product."""
    network = registry.build("equiformer", {})
    side = Side(network, lambda: network.network(graph)[:, 0])
    undone = {
        "kernels": mock.patch.dict(os.environ, {"NEUPOL_KERNELS": "0"}),
        "oneDNN": mock.patch.object(linear, "_onednn", lambda: None),
    }
    side.train()
    times: dict[str, list[float]] = {"all": [], **{name: [] for name in undone}}
    for _ in range(rounds):
        times["all"].append(seconds(side.train, 1))
        for name, patch in undone.items():
            with patch:
                times[name].append(seconds(side.train, 1))
    for name, seconds_each in times.items():
        print(
            f"train, {'' if name == 'all' else 'without '}{name}: {min(seconds_each):.2f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--published", type=Path)
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_large_blocks()
    graph = batch_of(options.data, options.batch_size)
    if options.parts:
        parts(graph, options.rounds)
        return
    listed = neighbours(graph, graph.positions, ARGUMENTS["max_radius"])
    theirs, given = published(options.published)
    given["edges"] = listed.senders, listed.receivers
    network = registry.from_published("equiformer", theirs.state_dict(), ARGUMENTS)
    print(f"{graph.size} molecules, {len(graph.numbers)} atoms, {len(listed.senders)} edges")
    compare(
        (
            Side(network, lambda: network.network(graph)[:, 0]),
            Side(theirs, lambda: theirs(None, graph.positions, graph.batch, graph.numbers)[:, 0]),
        ),
        graph.size,
        options.rounds,
        options.count,
    )


if __name__ == "__main__":
    main()
