"""EGNN against its published code: QM9 batches of 96, hidden 128, 7 layers, one thread, float32.

    git clone https://github.com/vgsatorras/egnn && git -C egnn checkout e9ca6c0
    neupol data qm9 -o qm9.h5
    OMP_NUM_THREADS=1 python benchmarks/egnn_speed.py --published egnn --data qm9.h5

Both sides have the same weights and see the same molecules, a fresh batch at every step, drawn from
the training split. Both keep large blocks on the heap and take turns, A B A B; times are the
processor's, the ratio is the median of the rounds'. Batches are built beforehand on the published
side (padded, as its data code does) and inside the timed step on ours, from a dataset in memory as
`neupol fit` does.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import in_turns
from torch import Tensor

from neupol_cli import registry
from neupol_cli.allocator import keep_large_blocks
from neupol_cli.io import hdf5
from neupol_cli.models.nn.graph import Graph, ragged

BATCH = 96
SPECIES = torch.tensor([1, 6, 7, 8, 9])


class Molecules:
    """QM9 in memory, and batches of it in both forms."""

    def __init__(self, path: Path) -> None:
        dataset = hdf5.read(path)
        self.numbers = torch.from_numpy(dataset.numbers)
        self.positions = torch.from_numpy(dataset.positions).float()
        self.offsets = torch.from_numpy(dataset.offsets)
        self.train = torch.from_numpy(next(iter(dataset.splits.values()))["train"])

    def chosen(self, step: int) -> Tensor:
        """The molecules of a step."""
        generator = torch.Generator().manual_seed(step)
        return self.train[torch.randperm(len(self.train), generator=generator)[:BATCH]]

    def graph(self, step: int) -> Graph:
        """The step's batch as ours."""
        rows, counts = ragged(self.offsets, self.chosen(step))
        return Graph.from_arrays(self.numbers[rows], self.positions[rows], counts)

    def padded(self, step: int) -> dict[str, Tensor]:
        """The step's batch as the published code has it, padded to the largest molecule."""
        rows, counts = ragged(self.offsets, self.chosen(step))
        largest = int(counts.max())
        there = torch.arange(largest) < counts[:, None]  # (B, n)
        charges = torch.zeros(BATCH, largest).masked_scatter(there, self.numbers[rows].float())
        positions = torch.zeros(BATCH, largest, 3)
        positions[there] = self.positions[rows]
        pairs = there[:, None] & there[:, :, None] & ~torch.eye(largest, dtype=torch.bool)
        return {
            "positions": positions.view(-1, 3),
            "charges": charges,
            "one_hot": (charges[..., None] == SPECIES).float(),
            "atoms": there.float().view(-1, 1),
            "pairs": pairs.float().view(-1, 1),
        }


def published_network(checkout: Path) -> Callable[[dict[str, Tensor]], Tensor]:
    """The published network as a function of a padded batch; ``.model`` is its module."""
    sys.path.insert(0, str(checkout))
    from qm9 import utils  # type: ignore[import-not-found]
    from qm9.models import EGNN as Published  # type: ignore[import-not-found]

    model = Published(15, 0, 128, n_layers=7, attention=1, node_attr=0)

    def run(batch: dict[str, Tensor]) -> Tensor:
        structures, largest = batch["charges"].shape
        inputs = utils.preprocess_input(batch["one_hot"], batch["charges"], 2, 9.0, "cpu")
        return model(
            h0=inputs.view(structures * largest, -1),
            x=batch["positions"],
            edges=utils.get_adj_matrix(largest, structures, "cpu"),
            edge_attr=None,
            node_mask=batch["atoms"],
            edge_mask=batch["pairs"],
            n_nodes=largest,
        )

    run.model = model  # type: ignore[attr-defined]
    return run


def counted(step: Callable[[int], Any]) -> Callable[[], Any]:
    """The step with another number, from 0, at every call."""
    numbers = itertools.count()
    return lambda: step(next(numbers))


def compare(name: str, ours: Any, theirs: Any, rounds: int) -> None:
    """Turns of three steps each; prints molecules/s of either side and the ratio."""
    turns = in_turns({"ours": counted(ours), "theirs": counted(theirs)}, rounds, 3)
    print(
        f"{name}: neupol {BATCH / turns.median('ours'):.0f} molecules/s, "
        f"published {BATCH / turns.median('theirs'):.0f}, "
        f"ratio {turns.ratio_line('theirs', 'ours')}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--published", type=Path, required=True, help="a checkout of egnn")
    parser.add_argument("--data", type=Path, required=True, help="made by neupol data qm9")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    torch.manual_seed(0)
    data = Molecules(arguments.data)
    theirs = published_network(arguments.published)
    module = theirs.model  # type: ignore[attr-defined]
    ours = registry.from_published("egnn", module.state_dict(), {"hidden_nf": 128, "n_layers": 7})
    prepared = {step: data.padded(step) for step in range(1 + 3 * arguments.rounds)}
    with torch.no_grad():
        apart = (ours.network(data.graph(0))[:, 0] - theirs(prepared[0])).abs().max()
        scale = theirs(prepared[0]).abs().max()
        print(f"outputs differ by {float(apart):.1e}; the largest is {float(scale):.2f}")
        compare(
            "inference",
            lambda step: ours.network(data.graph(step)),
            lambda step: theirs(prepared[step]),
            arguments.rounds,
        )
    target = torch.randn(BATCH)
    optimisers = [torch.optim.Adam(m.parameters(), 1e-4) for m in (ours, module)]

    def train(optimiser: torch.optim.Optimizer, answer: Tensor) -> None:
        optimiser.zero_grad()
        (answer - target).abs().mean().backward()
        optimiser.step()

    compare(
        "training",
        lambda step: train(optimisers[0], ours.network(data.graph(step))[:, 0]),
        lambda step: train(optimisers[1], theirs(prepared[step])),
        arguments.rounds,
    )


if __name__ == "__main__":
    main()
