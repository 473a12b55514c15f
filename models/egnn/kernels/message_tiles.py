"""EGNN's messages summed at their receivers a tile of edges at a time, for predictions on a CPU.

Each step of messages.py walks an (edges, H) tensor through memory. A tile goes through all of them
while it is in the cache, and no tensor of that size is made. Where gradients are recorded each tile
is kept for them, and nothing is gained.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neupol_cli.models.egnn.messages import MessageInputs, messages

# 1,024 edges of 128 floats are half a megabyte: two such tiles fit in a core's second cache.
TILE_NUMBERS = 1024 * 128


def summed_messages(p: MessageInputs, receivers: Tensor, senders: Tensor) -> Tensor:
    """The function of the same name in messages.py, in tiles."""
    out = torch.zeros_like(p.received)
    edges, step = receivers.shape[0], max(TILE_NUMBERS // p.weight.shape[0], 64)
    for start in range(0, edges, step):
        tile = slice(start, start + step)
        to = receivers[tile]
        out.index_add_(0, to, messages(p.select(tile), to, senders[tile]))
    return out
