"""Which items a step trains on, and where its random numbers begin: from (seed, rank, step)."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from neupol_cli.distributed.process_group import ALONE, ProcessGroup
from neupol_cli.errors import UsageError


def mixed(*numbers: int) -> int:
    """A seed (63 bits) that differs wherever any of the numbers does."""
    text = ",".join(str(number) for number in numbers).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


class EpochSampler:
    """Which items a step trains on: a new permutation every epoch, derived from (seed, epoch).

    All ranks draw the same permutation and share its batches out, so that a run takes the same
    steps however many they are. What does not fill a last batch is left out of that epoch, so that
    all steps weigh the same.

    Raises:
        UsageError: a batch that leaves a rank with nothing.
    """

    def __init__(self, size: int, batch: int, seed: int, group: ProcessGroup = ALONE) -> None:
        self.size, self.seed, self.group = size, seed, group
        self.chunk = min(batch, size)
        if self.chunk < group.world_size:
            raise UsageError(
                f"a batch of {self.chunk} leaves some of {group.world_size} processes idle"
            )
        self.per_epoch = max(1, size // self.chunk)
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def batch(self, step: int) -> Tensor:
        """(b,) indices of this rank's items of a step, on the host."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mixed(self.seed, epoch))
            self._order, self._epoch = torch.randperm(self.size, generator=generator), epoch
        chosen: Tensor = self.group.shard(
            self._order[place * self.chunk : (place + 1) * self.chunk]
        )
        return chosen


def batches(indices: Tensor, size: int) -> tuple[Tensor, ...]:
    """Indices (n,) in pieces of at most ``size``; none where there are none."""
    return indices.split(size) if len(indices) else ()


def default_generator(device: torch.device) -> torch.Generator:
    """The generator that torch itself draws from on a device, for instance for dropout."""
    if device.type == "cuda":
        torch.cuda.init()
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator
