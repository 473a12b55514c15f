"""The product of models/nn/linear.py against PyTorch's own, at the sizes of a batch of QM9's pairs.

OMP_NUM_THREADS=1 python benchmarks/linear.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.allocator import keep_large_blocks
from neupol_cli.models.nn.linear import product


def milliseconds(function: Callable[[], Tensor], repeats: int = 9) -> float:
    """The median time of a call."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def main() -> None:
    torch.set_num_threads(1)
    keep_large_blocks()
    torch.manual_seed(0)
    print("rows  in  out   PyTorch ms   neupol ms  ratio  largest difference")
    for rows, wide, narrow in ((30200, 128, 128), (1728, 256, 128), (1728, 128, 384)):
        x, w = torch.randn(rows, wide), torch.randn(narrow, wide)
        theirs = milliseconds(lambda: functional.linear(x, w))  # noqa: B023
        ours = milliseconds(lambda: product(x, w))  # noqa: B023
        apart = float((functional.linear(x, w) - product(x, w)).abs().max())
        print(
            f"{rows:5d} {wide:3d} {narrow:4d} {theirs:12.2f} {ours:11.2f} "
            f"{theirs / ours:6.2f}  {apart:.1e}"
        )


if __name__ == "__main__":
    main()
