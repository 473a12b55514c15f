"""The product of models/nn/linear.py against PyTorch's own, at the sizes of a batch of QM9's pairs.

OMP_NUM_THREADS=1 python benchmarks/linear.py
"""

from __future__ import annotations

from functools import partial

import torch
from harness import in_turns
from torch.nn import functional

from neupol_cli.allocator import keep_large_blocks
from neupol_cli.models.nn.linear import product


def main() -> None:
    torch.set_num_threads(1)
    keep_large_blocks()
    torch.manual_seed(0)
    print("rows  in  out   PyTorch ms   neupol ms  ratio  largest difference")
    for rows, wide, narrow in ((30200, 128, 128), (1728, 256, 128), (1728, 128, 384)):
        x, w = torch.randn(rows, wide), torch.randn(narrow, wide)
        sides = {"torch": partial(functional.linear, x, w), "neupol": partial(product, x, w)}
        turns = in_turns(sides, 9)
        apart = float((turns.results["torch"] - turns.results["neupol"]).abs().max())
        theirs, ours = (1e3 * turns.median(side) for side in sides)
        print(
            f"{rows:5d} {wide:3d} {narrow:4d} {theirs:12.2f} {ours:11.2f} "
            f"{turns.ratio('torch', 'neupol'):6.2f}  {apart:.1e}"
        )


if __name__ == "__main__":
    main()
