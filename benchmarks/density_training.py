"""Training steps per second: ChargE3Net here against its published implementation.

    python benchmarks/density_training.py --published PATH DATA.h5 [--steps 20]

Both start from the same random weights of the paper's size and take the same batches, 8 structures
with 200 probes each, with the same Adam and learning rate; graphs are built in both as in training.
Losses are printed step by step: they must agree until rounding has grown. PATH is a clone of
github.com/AIforGreatGood/charge3net, DATA.h5 made by `neupol data density`. Times are CPU seconds
of the process, one thread, blocks kept on the heap for both.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from density_speed import HEAP, PAPER, ours_from, published_model

BATCH, PROBES, LR = 8, 200, 0.01


def batches(task: Any, steps: int) -> list[tuple[Any, Any]]:
    """For every step (8,) structures and (8, 200) rows of their held points."""
    import torch

    generator = torch.Generator().manual_seed(0)
    chunks = []
    for _ in range(steps):
        chosen = task.train[torch.randperm(task.size, generator=generator)[:BATCH]]
        chunks.append((chosen, task.draw(chosen, PROBES, generator)[0]))
    return chunks


def published_batch(task: Any, chosen: Any, rows: Any) -> dict[str, Any]:
    """The same batch through the published graph builder, padded and stacked as theirs."""
    import ase
    import numpy as np
    from src.charge3net.data.graph_construction import KdTreeGraphConstructor
    from src.charge3net.data.layer import pad_and_stack

    build = KdTreeGraphConstructor(cutoff=PAPER["cutoff"], num_probes=None, disable_pbc=True)
    points = task.grids.points(chosen, rows).double().numpy()
    graphs = []
    for index, probes in zip(chosen.tolist(), points, strict=True):
        first, last = task.arrays.offsets[index : index + 2].tolist()
        numbers = task.arrays.numbers[first:last].numpy()
        atoms = ase.Atoms(numbers, task.arrays.positions[first:last].double().numpy())
        graphs.append(build(np.zeros(PROBES), atoms, probes))
    return {key: pad_and_stack([graph[key] for graph in graphs]) for key in graphs[0]}


class Published:
    """The published network, one step at a time."""

    def __init__(self, model: Any, task: Any) -> None:
        import torch

        self.model, self.task = model.train(), task
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LR)

    def density(self, chosen: Any, rows: Any) -> Any:
        """(1600,) at the batch's probes."""
        return self.model(published_batch(self.task, chosen, rows)).reshape(-1)

    def step(self, chosen: Any, rows: Any) -> float:
        """One step of Adam; the loss before it."""
        density = self.density(chosen, rows)
        loss = (density - self.task.grids.values[rows.reshape(-1)]).abs().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


class Ours(Published):
    """Our network with the same weights."""

    def density(self, chosen: Any, rows: Any) -> Any:
        graph, _ = self.task.arrays.graph(chosen)
        return self.model(graph, self.task.grids.points(chosen, rows))


def main() -> None:
    """Runs both and prints rates and losses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    chosen = parser.parse_args()
    if any(os.environ.get(key) != value for key, value in HEAP.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **HEAP})
    import torch

    from neupol_cli.io import hdf5
    from neupol_cli.training.density_task import density_task
    from neupol_cli.training.request import Request

    torch.set_num_threads(1)
    request = Request(limit=64, config={"mul": 10, "lmax": 1})
    task = density_task("charge3net", hdf5.read(chosen.data), request)
    theirs = published_model(chosen.published)
    plan = batches(task, chosen.steps)
    Published(theirs, task).step(*plan[0])  # e3nn compiles on its first call
    theirs = published_model(chosen.published)
    sides = (Published(theirs, task), Ours(ours_from(theirs), task))
    seconds = [0.0, 0.0]
    for number, batch in enumerate(plan):  # in turn: what else the machine does falls on both
        losses = []
        for k, side in enumerate(sides):
            start = time.process_time()
            losses.append(side.step(*batch))
            if number:  # the first step of each makes its buffers
                seconds[k] += time.process_time() - start
        line = {"step": number, "published loss": losses[0], "neupol loss": losses[1]}
        print(json.dumps(line), flush=True)
    rates = [(len(plan) - 1) / total for total in seconds]
    result = {"batch": f"{BATCH} x {PROBES} probes", "published steps/s": rates[0]}
    print(json.dumps(result | {"neupol steps/s": rates[1], "ratio": rates[1] / rates[0]}))


if __name__ == "__main__":
    main()
