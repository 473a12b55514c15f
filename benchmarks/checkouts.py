"""Two checkouts of neupol against each other, in turns: did a change of the code cost speed?

    git worktree add /somewhere/before COMMIT
    OMP_NUM_THREADS=1 python benchmarks/checkouts.py /somewhere/before [CASE ...] [--rounds 30]

One process a checkout, each with its own code, the same weights (the same seed) and structures, one
thread. The two take turns, A B B A, each a tenth of a second; times are processor seconds of the
process that works. Others on the same machine only ever add to them, even to processor seconds, so
the fastest call of all rounds is nearest to the work itself: printed are both, their ratio (before
/ after: above 1 is faster now), the median of the rounds' ratios, and how far the outputs are
apart, relative to the largest. ``--molecules`` makes the work of a call smaller, for machines on
which a call takes longer than a turn.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROPERTIES = (
    "egnn",
    "equivariant-transformer",
    "equiformer",
    "dimenet",
    "painn",
    "distance-transformer",
)
DENSITIES = ("charge3net", "deepdft-schnet", "deepdft-painn")
LARGE = ("equiformer",)  # takes a quarter of the molecules
SLICE = 0.1  # seconds of a turn
CASES = [
    *(f"{name} {what}" for name in PROPERTIES for what in ("inference", "training", "forces")),
    *(f"{name} {what}" for name in DENSITIES for what in ("grid", "training")),
]


def graph_class() -> Any:
    """Graph, wherever the checkout has it."""
    for name in ("nn.graph", "graph"):
        try:
            return importlib.import_module(f"neupol_cli.models.{name}").Graph
        except ModuleNotFoundError:
            continue
    raise SystemExit("this checkout has no Graph")


def molecules(count: int) -> list[Any]:
    """ASE's G2 molecules of H, C, N, O and F with six atoms and more."""
    from ase.build import molecule
    from ase.collections import g2

    every = [molecule(name) for name in sorted(g2.names)]
    chosen = [m for m in every if len(m) >= 6 and set(m.symbols) <= set("HCNOF")][:count]
    for m in chosen:  # forces of a published network have no value at a symmetric structure
        m.rattle(0.05)
    return chosen


# With these every checkout builds the same network, whose answer is not zero and not drawn by lot.
ALIKE = {"softening": 0.0, "output_start": "glorot", "alpha_drop": 0.0}


def alike(name: str) -> dict[str, object]:
    """Those of these settings that a network has in this checkout."""
    from neupol_cli import registry

    return {key: value for key, value in ALIKE.items() if key in registry.defaults(name)}


def property_case(
    name: str, what: str, count: int = 32, structures: Callable[[int], list[Any]] = molecules
) -> Callable[[], Any]:
    """Predictions, a training step's gradients, or energies and forces of so many structures."""
    import torch

    from neupol_cli import registry

    model: Any = registry.build(name, alike(name))
    chosen = structures(-(-count // 4) if name in LARGE else count)
    graph = graph_class().from_atoms(chosen, torch.float32)

    def inference() -> Any:
        with torch.no_grad():
            return model.eval().network(graph)

    def training() -> Any:
        loss = model.train().network(graph).abs().mean()
        weights = [p for p in model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        return torch.stack([g.square().sum() for g in gradients if g is not None])

    def forces() -> Any:
        return model.eval().derivatives(graph, create_graph=False)[1]

    def learning() -> Any:  # of forces: a derivative of derivatives
        values, pulled, _ = model.train().derivatives(graph, create_graph=True)
        loss = values.abs().mean() + pulled.abs().mean()
        weights = [p for p in model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        return torch.stack([g.square().sum() for g in gradients if g is not None])

    works = {"inference": inference, "training": training, "forces": forces, "learning": learning}
    return works[what]


def density_case(name: str, what: str, count: int = 32) -> Callable[[], Any]:
    """Benzene's grid, 40 points a side where ``count`` is 32, or a training step's gradients."""
    import numpy as np
    import torch
    from ase.build import molecule
    from density_speed import around

    from neupol_cli import registry

    model: Any = registry.build(name, {"species": (1, 6)})
    atoms = molecule("C6H6")
    grid = around(atoms, round(40 * (count / 32) ** (1 / 3)))
    graph = graph_class().from_atoms([atoms] * 2, torch.float32)
    probes = torch.from_numpy(np.random.default_rng(0).normal(0, 2, (2, 300, 3))).float()

    def training() -> Any:
        loss = model.train()(graph, probes).abs().mean()
        weights = [p for p in model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        return torch.stack([g.square().sum() for g in gradients if g is not None])

    def whole() -> Any:
        return model.eval().density_grid(model.atom_features(atoms), grid)

    return whole if what == "grid" else training


def serve(count: int) -> None:
    """Answers lines on stdin, each a case's name, with seconds and outputs; for the parent."""
    import torch

    from neupol_cli.allocator import keep_large_blocks

    torch.set_num_threads(1)
    keep_large_blocks()
    cases: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        case = line.strip()
        if case not in cases:
            torch.manual_seed(0)
            name, what = case.rsplit(" ", 1)
            cases = {
                case: (property_case if name in PROPERTIES else density_case)(name, what, count)
            }
            cases[case]()  # warms up
        seconds, started = [], time.process_time()
        while not seconds or time.process_time() - started < SLICE:
            start = time.process_time()
            output = cases[case]()
            seconds.append(time.process_time() - start)
        values = output.detach().double().flatten()[:2000].tolist()
        print(json.dumps({"seconds": min(seconds), "values": values}), flush=True)


class Side:
    """A process that works with one checkout's code."""

    def __init__(self, checkout: Path, count: int) -> None:
        path = str(checkout.resolve())
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(checkout), "--molecules", str(count)],
            env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, case: str) -> dict[str, Any]:
        """Seconds a call and values of a case."""
        requests, answers = self.process.stdin, self.process.stdout
        assert requests is not None and answers is not None
        requests.write(case + "\n")
        requests.flush()
        line = answers.readline()
        if not line:
            raise SystemExit(f"{case}: the process ended, see above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def compared(case: str, sides: tuple[Side, ...], rounds: int) -> str:
    """A row of the table."""
    turns = []
    for number in range(rounds):  # A B, B A: neither always comes first
        order = (0, 1) if number % 2 == 0 else (1, 0)
        answers = {k: sides[k].ask(case) for k in order}
        turns.append((answers[0], answers[1]))
    before, after = ([turn[k]["seconds"] for turn in turns] for k in (0, 1))
    ratios = [b / a for b, a in zip(before, after, strict=True)]
    old, new = (answer["values"] for answer in turns[-1])
    apart = max(abs(x - y) for x, y in zip(old, new, strict=True)) / max(map(abs, old))
    milliseconds = f"{1e3 * min(before):.1f} | {1e3 * min(after):.1f}"
    ratio = f"{min(before) / min(after):.3f} | {statistics.median(ratios):.3f}"
    return f"| {case} | {milliseconds} | {ratio} | {apart:.0e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("cases", nargs="*", help="the first words of cases; all without any")
    parser.add_argument("--after", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--molecules", type=int, default=32)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.molecules)
        return
    sides = tuple(Side(path, options.molecules) for path in (options.before, options.after))
    print(
        "| | before, ms | after, ms | before / after | median of rounds | apart |\n"
        "|---|---|---|---|---|---|"
    )
    for case in CASES:
        if not options.cases or case.startswith(tuple(options.cases)):
            print(compared(case, sides, options.rounds), flush=True)


if __name__ == "__main__":
    main()
