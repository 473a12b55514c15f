"""EGNN with velocities against its published code: batches of 100 systems, one thread, float32.

    git clone https://github.com/vgsatorras/egnn && git -C egnn checkout e9ca6c0
    neupol data nbody -o nbody.h5
    OMP_NUM_THREADS=1 python benchmarks/nbody_speed.py --published egnn --data nbody.h5

Both sides start from the same weights and see the same batches; both keep large blocks on the heap
and take turns, A B A B. Times are CPU seconds of this process, so that a neighbour on the machine
counts for less; medians over the rounds are compared. Data loading is left out on both sides. The
movable points have no published code: their time is given next to the published network without.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import in_turns
from torch import Tensor
from torch.nn.functional import mse_loss

from neupol_cli import registry
from neupol_cli.allocator import keep_large_blocks
from neupol_cli.io import hdf5

BATCH, PARTICLES = 100, 5
SIZES = {"hidden_nf": 64, "n_layers": 4}
STEPS = 20  # a round


class Systems:
    """The training systems, a batch a step."""

    def __init__(self, path: Path) -> None:
        data = hdf5.read(path)
        arrays = [data.positions, *(data.targets[k].values for k in ("velocities", "charges"))]
        arrays.append(data.targets["positions_later"].values)
        tensors = (torch.from_numpy(array).float() for array in arrays)
        self.x, self.v, self.q, self.y = (x.unflatten(0, (-1, PARTICLES)) for x in tensors)
        self.train = torch.from_numpy(data.splits["default"]["train"])

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """(100, 5, 3) positions, velocities, later positions; (100, 5) charges."""
        first = step * BATCH % (len(self.train) - BATCH + 1)
        chosen = self.train[first : first + BATCH]
        return self.x[chosen], self.v[chosen], self.q[chosen], self.y[chosen]


def published_network(folder: Path) -> Any:
    """Their network, whose package is called ``models``."""
    package = types.ModuleType("models")
    package.__path__ = [str(folder / "models")]
    sys.modules["models"] = package
    place = folder / "n_body_system" / "model.py"
    spec = importlib.util.spec_from_file_location("published_nbody", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EGNN_vel(in_node_nf=1, in_edge_nf=2, hidden_nf=64, n_layers=4, recurrent=True)


def their_answer(network: Any) -> Callable[..., Tensor]:
    """Their call, with what their training script computes before it."""
    pairs = [(i, j) for i in range(PARTICLES) for j in range(PARTICLES) if i != j]
    shift = PARTICLES * torch.arange(BATCH)[:, None]
    rows, cols = ((torch.tensor(side) + shift).flatten() for side in zip(*pairs, strict=True))

    def answer(x: Tensor, v: Tensor, q: Tensor) -> Tensor:
        x, v, q = x.reshape(-1, 3), v.reshape(-1, 3), q.reshape(-1, 1)
        squared = (x[rows] - x[cols]).square().sum(1, keepdim=True)
        attributes = torch.cat((q[rows] * q[cols], squared), 1)
        speeds = v.square().sum(1, keepdim=True).sqrt()
        moved: Tensor = network(speeds, x.clone(), [rows, cols], v, attributes)
        return moved.view(BATCH, PARTICLES, 3)

    return answer


def rounds(sides: dict[str, Callable[[int], None]], count: int) -> dict[str, float]:
    """CPU milliseconds a step, the medians of interleaved rounds."""
    turns = in_turns({name: counted(step) for name, step in sides.items()}, count, STEPS)
    return {name: 1e3 * turns.median(name) for name in sides}


def counted(step: Callable[[int], None]) -> Callable[[], None]:
    """The step with another number, from 0, at every call."""
    numbers = itertools.count()
    return lambda: step(next(numbers))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    torch.manual_seed(0)
    data, theirs = Systems(arguments.data), published_network(arguments.published)
    ours = registry.from_published("egnn-nbody", theirs.state_dict(), SIZES).train()
    answers: dict[str, tuple[Any, Callable[..., Tensor]]] = {
        "published": (theirs, their_answer(theirs)),
        "neupol, off": (ours, ours),
    }
    x, v, q, _ = data.batch(0)
    apart = (answers["published"][1](x, v, q) - ours(x, v, q)).detach().abs().max()
    print(f"answers differ by {float(apart):.1e}")
    for mode in ("frozen", "movable"):
        network = registry.build("egnn-nbody", {"polarization": mode})
        answers[f"neupol, {mode}"] = (network, network)
    report("inference", rounds({k: inference(data, f) for k, (_, f) in answers.items()}, 7))
    sides = {k: training(data, network, f) for k, (network, f) in answers.items()}
    report("training", rounds(sides, arguments.rounds))


def inference(data: Systems, answer: Callable[..., Tensor]) -> Callable[[int], None]:
    def step(k: int) -> None:
        with torch.no_grad():
            answer(*data.batch(k)[:3])

    return step


def training(data: Systems, network: Any, answer: Callable[..., Tensor]) -> Callable[[int], None]:
    fused = {} if "EGNN_vel" in type(network).__name__ else {"fused": True}
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4, weight_decay=1e-12, **fused)

    def step(k: int) -> None:
        x, v, q, y = data.batch(k)
        optimizer.zero_grad()
        mse_loss(answer(x, v, q), y).backward()
        optimizer.step()

    return step


def report(what: str, medians: dict[str, float]) -> None:
    base = medians["published"]
    for name, median in medians.items():
        rate, ratio = BATCH / median * 1e3, base / median
        print(f"{what:10} {name:16} {median:7.2f} ms  {rate:7.0f} systems/s  {ratio:5.2f} x")


if __name__ == "__main__":
    main()
