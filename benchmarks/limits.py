"""How near to the core's limit a step of training is: products and bytes of the plain formula.

    OMP_NUM_THREADS=1 python benchmarks/limits.py QM9.h5 [--molecules 32] [--rounds 5] [CASE ...]

One thread. The operations of one step are counted with every kernel switched off, as the formulas
of network.py have them: floating-point operations in matrix products, and bytes that all other
operations read and write. Beside them stands what the step takes with its kernels, and what the
core gives in the same minute: GFLOP/s of a large product, GB/s of a sum of two tensors that fit no
cache, and of two that do. ``least`` is the time of the products alone at the first rate, ``alone``
of the same products one after the other, each by the faster library and with nothing between them:
no rewriting of what lies between them takes a step below it, only fewer products do.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from batches import batch_of
from checkouts import density_case
from harness import in_turns
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from neupol_cli import registry
from neupol_cli.allocator import keep_large_blocks
from neupol_cli.models.nn.linear import product

PROPERTIES = (
    "egnn",
    "equivariant-transformer",
    "equiformer",
    "dimenet",
    "painn",
    "distance-transformer",
)
MOVABLE = ("egnn", "equivariant-transformer", "equiformer")
DENSITIES = ("charge3net", "deepdft-schnet", "deepdft-painn")
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
Work = Callable[[], Any]


class Bytes(TorchDispatchMode):
    """Bytes that operations other than products and views read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in PRODUCTS and not func.is_view:
            leaves = tree_leaves((args, kwargs, result))
            self.moved += sum(x.nbytes for x in leaves if isinstance(x, torch.Tensor))
        return result


class Shapes(TorchDispatchMode):
    """How often which product is made: its name and the shapes of its two matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, torch.Size, torch.Size]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in PRODUCTS:
            a, b = [x.shape for x in args if isinstance(x, torch.Tensor)][-2:]
            self.counts[name, a, b] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def formulas_alone() -> Iterator[None]:
    """No kernels, and products by operations that are counted."""
    with (
        patch.dict(os.environ, NEUPOL_KERNELS="0"),
        patch("neupol_cli.models.nn.linear._onednn", lambda: None),
    ):
        yield


def counted(work: Work) -> tuple[float, float]:
    """Floating-point operations in products, and bytes of all others, of one call."""
    with formulas_alone():
        with FlopCounterMode(display=False) as flops:
            work()
        with Bytes() as moved:
            work()
    return float(flops.get_total_flops()), float(moved.moved)


def alone(work: Work) -> float:
    """Seconds of the products of one call, without anything between them."""
    with formulas_alone(), Shapes() as made:
        work()
    with torch.no_grad():
        return sum(count * fastest(*shapes) for shapes, count in made.counts.items())


def fastest(name: str, a: torch.Size, b: torch.Size) -> float:
    """Seconds of one product."""
    one, other = torch.randn(a), torch.randn(b)
    turned = other.mT.contiguous()
    ways: list[Work] = [lambda: one @ other]
    if name in ("mm", "addmm"):
        ways.append(lambda: product(one, turned))
    return min(seconds(way) for way in ways for _ in range(3))


def seconds(work: Work) -> float:
    """Of one call, in some hundredths of a second."""
    calls, start = 0, time.process_time()
    while (spent := time.process_time() - start) < 0.02:
        work()
        calls += 1
    return spent / calls


def cases(data: Path, molecules: int) -> Iterator[tuple[str, Work]]:
    """Steps of training: properties of QM9's molecules, densities as in checkouts.py."""
    graph = batch_of(data, molecules)
    for name in PROPERTIES:
        for mode in ("off", "movable") if name in MOVABLE else ("off",):
            torch.manual_seed(0)
            species = (1, 6, 7, 8, 9)
            model = registry.build(name, {"species": species, "polarization": mode})
            yield f"{name}, {mode}" if mode != "off" else name, step_of(model, graph)
    for name in DENSITIES:
        yield name, density_case(name, "training", 32)


def step_of(model: Any, graph: Any) -> Work:
    """Gradients of all weights."""
    weights = [p for p in model.parameters() if p.requires_grad]

    def work() -> Any:
        torch.manual_seed(1)  # dropout
        loss = model.train().network(graph).abs().mean()
        return torch.autograd.grad(loss, weights, allow_unused=True)

    return work


def core() -> dict[str, Work]:
    """What the core gives: a product that fills its vector units, and sums of two tensors."""
    a, b = torch.randn(4096, 512), torch.randn(512, 512)
    large, small = torch.randn(2, 1 << 24), torch.randn(2, 1 << 15)  # 64 MB and 128 kB each
    out = torch.empty(1 << 24), torch.empty(1 << 15)
    return {
        "product": lambda: product(a, b),
        "far": lambda: torch.add(large[0], large[1], out=out[0]),
        "near": lambda: [torch.add(small[0], small[1], out=out[1]) for _ in range(512)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("cases", nargs="*", help="first words of cases; all without any")
    parser.add_argument("--molecules", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    heads = "step, ms | least, ms | alone, ms | GFLOP | GFLOP/s | of the core | GB elsewhere"
    print(f"| | {heads} | core: GFLOP/s, GB/s far, near |\n|---|---|---|---|---|---|---|---|---|")
    for name, work in cases(options.data, options.molecules):
        if not options.cases or name.startswith(tuple(options.cases)):
            print(row(name, work, options.rounds), flush=True)


def row(name: str, work: Work, rounds: int) -> str:
    """Counts and times one step, in turns with what tells what the core gives."""
    flops, moved = counted(work)
    turns = in_turns({"step": work, **core()}, rounds)
    step = turns.fastest("step")
    rate = 2 * 4096 * 512 * 512 / turns.fastest("product")
    bandwidths = [3 * 4 * (1 << 24) / turns.fastest(side) / 1e9 for side in ("far", "near")]
    numbers = (
        f"{1e3 * step:.1f} | {1e3 * flops / rate:.1f} | {1e3 * alone(work):.1f} | {flops / 1e9:.2f}"
    )
    reached = f"{flops / step / 1e9:.0f} | {100 * flops / step / rate:.0f} %"
    given = f"{rate / 1e9:.0f}, {bandwidths[0]:.0f}, {bandwidths[1]:.0f}"
    return f"| {name} | {numbers} | {reached} | {moved / 1e9:.2f} | {given} |"


if __name__ == "__main__":
    main()
