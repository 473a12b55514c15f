"""What movable points cost: a network with none, frozen and movable ones, in turns.

    OMP_NUM_THREADS=1 python benchmarks/points_cost.py QM9.h5 [NETWORK ...] [--rounds 5]

One thread, processor seconds of the fastest call; each is followed by its ratio to that without
points. GFLOP are products of the formulas of network.py (kernels off, see limits.py). ``least`` is
the ratio of the products that an exact evaluation cannot do without, forwards, on both sides:
counted pair by pair below, without what nobody reads, and with what several kinds of pairs share
made once. Equiformer's and ChargE3Net's formulas leave out all of that: their GFLOP are the least.
``apart`` is how far the answers are from the plain formula's, relative to the largest of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ase.build import molecule
from batches import batch_of
from density_speed import around
from harness import in_turns
from limits import counted, formulas_alone, step_of
from torch import Tensor

from neupol_cli import registry
from neupol_cli.allocator import keep_large_blocks
from neupol_cli.models.nn.graph import Graph
from neupol_cli.models.nn.neighbours import neighbours

MODES = ("off", "frozen", "movable")
PROPERTIES = ("egnn", "equivariant-transformer", "equiformer")
SMALLER = {"equiformer": 4}  # its formula holds half a gigabyte a molecule
Work = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One network's work in each mode.

    Attributes:
        name: of the network.
        training, prediction: by mode; a prediction answers with a tensor.
        least: products of an exact evaluation with movable points over those without.
    """

    name: str
    training: dict[str, Work]
    prediction: dict[str, Work]
    least: float | None


@dataclass(frozen=True)
class Pairs:
    """How many there are without points: A points and E edges, each with its reverse."""

    points: int
    edges: int

    @classmethod
    def of(cls, graph: Graph, cutoff: float | None) -> Pairs:
        """Of a batch."""
        listed = neighbours(graph, graph.positions, cutoff)
        return cls(len(graph.numbers), len(listed.receivers))

    @property
    def doubled(self) -> int:
        """Edges among all points: four kinds, and between each atom and its own point."""
        return 4 * self.edges + 2 * self.points

    @property
    def to_moving(self) -> int:
        """Those of them that movable points receive."""
        return self.doubled // 2


def least_egnn(config: Any, pairs: Pairs) -> float:
    """phi_e an edge, phi_x an edge to a point that moves, L h_i, L h_j and phi_h a point.

    Features of an atom and of its point differ from the embedding on, and phi_e is not linear: no
    two edges have a message in common. In the last layer atoms only send.
    """
    width, layers = config.hidden, config.layers
    edge, point = width**2 + 2 * width, 5 * width**2
    push = 128 * width + 128
    off = layers * (pairs.edges * edge + pairs.points * point)
    before = pairs.doubled * edge + pairs.to_moving * push + 2 * pairs.points * point
    last = pairs.to_moving * edge + pairs.points * (point + width**2)
    return ((layers - 1) * before + last) / off


def least_transformer(config: Any, pairs: Pairs) -> float:
    """dk, dv0, dv2 and dv1 a distance, linear maps a point, of which vectors are three.

    The filters of the first layer and of the embedding are those of the atoms' pairs; the last
    layer's are not wanted between atoms, which have no q, o and w there. Self loops, all of one
    length, are one distance.
    """
    width, size, layers = config.hidden, config.encoding_size, config.layers
    half = pairs.edges // 2
    filters, square = 4 * size * width, width**2
    embedding = half * size * width
    shared = embedding + half * (filters - size * width)
    first, later, sends = 5 * square, (5 + 3 + 9) * square, 4 * square
    off = shared + pairs.points * (2 * square + first)
    off += (layers - 1) * (half * filters + pairs.points * later)
    doubled = (4 * half + pairs.points) * filters + 2 * pairs.points * later
    last = (3 * half + pairs.points) * filters + pairs.points * (later + sends)
    points = 2 * pairs.points * (2 * square + first)
    return (shared + points + (layers - 2) * doubled + last) / off


def least_nbody(config: Any, systems: int, particles: int) -> float:
    """phi_e an edge; phi_x an edge and phi_v a point that moves; phi_h but for the last layer."""
    width, layers = config.hidden, config.layers
    pairs = Pairs(systems * particles, systems * particles * (particles - 1))
    edge, push, square = width**2 + 3 * width, width**2 + width, width**2
    off = layers * (pairs.edges * (edge + push) + 3 * pairs.points * square)
    off += (layers - 1) * 3 * pairs.points * square
    before = pairs.doubled * edge + pairs.to_moving * push + pairs.points * (2 * 5 + 1) * square
    last = pairs.to_moving * (edge + push) + pairs.points * 4 * square
    return ((layers - 1) * before + last) / off


def property_case(name: str, data: Path, molecules: int) -> Case:
    """Of QM9's molecules."""
    graph = batch_of(data, molecules // SMALLER.get(name, 1))
    species = (1, 6, 7, 8, 9)
    models = built(name, species=species)
    least = LEAST.get(name)
    return Case(
        name,
        {mode: step_of(model, graph) for mode, model in models.items()},
        {mode: predicting(model, model.network, graph) for mode, model in models.items()},
        least and least(models["off"].config, Pairs.of(graph, models["off"].config.cutoff)),
    )


def density_case() -> Case:
    """ChargE3Net's: two copies of benzene with 300 probes each, and a grid of 40 points a side."""
    benzene, models = molecule("C6H6"), built("charge3net", species=(1, 6))
    graph, grid = Graph.from_atoms([benzene] * 2, torch.float32), around(benzene, 40)
    probes = 2 * torch.randn(2, 300, 3, generator=torch.Generator().manual_seed(0))

    def density(model: Any) -> Any:
        return torch.as_tensor(model.density_grid(model.atom_features(benzene), grid))

    return Case(
        "charge3net",
        {mode: training(model, graph, probes) for mode, model in models.items()},
        {mode: predicting(model, density, model) for mode, model in models.items()},
        None,
    )


def particles_case() -> Case:
    """100 systems of five charges."""
    inputs = [torch.randn(100, 5, *rest) for rest in ((3,), (3,), ())]
    models = built("egnn-nbody")
    return Case(
        "egnn-nbody",
        {mode: training(model, *inputs) for mode, model in models.items()},
        {mode: predicting(model, model, *inputs) for mode, model in models.items()},
        least_nbody(models["off"].config, 100, 5),
    )


def built(name: str, **settings: Any) -> dict[str, Any]:
    """The network in each mode."""
    models = {}
    for mode in MODES:
        torch.manual_seed(0)
        models[mode] = registry.build(name, {**settings, "polarization": mode})
    return models


def predicting(model: Any, answer: Callable[..., Tensor], *inputs: Any) -> Work:
    """One answer, without derivatives."""

    def work() -> Tensor:
        model.eval()
        with torch.no_grad():
            return answer(*inputs)

    return work


def training(model: Any, *inputs: Any) -> Work:
    """Gradients of all weights."""
    weights = [p for p in model.parameters() if p.requires_grad]

    def work() -> Any:
        loss = model.train()(*inputs).abs().mean()
        return torch.autograd.grad(loss, weights, allow_unused=True)

    return work


def cases(data: Path, molecules: int) -> Iterator[tuple[str, Callable[[], Case]]]:
    """Every network, made when it is asked for."""
    for name in PROPERTIES:
        yield name, partial(property_case, name, data, molecules)
    yield "charge3net", density_case
    yield "egnn-nbody", particles_case


def rows(case: Case, rounds: int) -> Iterator[str]:
    """Measures a case; rows of the table."""
    for what, works in (("training", case.training), ("prediction", case.prediction)):
        products = {mode: counted(work)[0] for mode, work in works.items()}
        turns = in_turns(works, rounds)
        for mode in MODES:
            ratio = turns.fastest(mode) / turns.fastest("off")
            least = f"{case.least:.2f}" if case.least and mode == "movable" else "-"
            numbers = f"{1e3 * turns.fastest(mode):.1f} | {ratio:.2f} | {products[mode] / 1e9:.2f}"
            more = f"{products[mode] / products['off']:.2f} | {least} | "
            far = apart(case.prediction[mode]) if what == "prediction" else 0.0
            yield f"| {case.name} | {what} | {mode} | {numbers} | {more}{far:.0e} |"


def apart(work: Work) -> float:
    """How far an answer is from the plain formula's, relative to the largest."""
    ours = work()
    with formulas_alone():
        plain = work()
    return float((ours - plain).abs().max() / plain.abs().max())


LEAST = {"egnn": least_egnn, "equivariant-transformer": least_transformer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("cases", nargs="*", help="first words of networks; all without any")
    parser.add_argument("--molecules", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    print("| network | | points | ms | ratio | GFLOP | ratio | least | apart |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, make in cases(options.data, options.molecules):
        if not options.cases or name.startswith(tuple(options.cases)):
            for row in rows(make(), options.rounds):
                print(row, flush=True)


if __name__ == "__main__":
    main()
