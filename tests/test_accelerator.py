"""The device that counts waits (tests/accelerator.py) sees each kind, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.accelerator import OnDevice, accelerator, waits

WAIT: dict[str, Callable[[Tensor, Tensor], object]] = {
    "item": lambda x, n: x.sum().item(),
    "bool": lambda x, n: bool(x.any()),
    "int": lambda x, n: int(n.max()),
    "tolist": lambda x, n: n.tolist(),
    "cpu": lambda x, n: x.cpu(),
    "cpu, not blocking": lambda x, n: x.to("cpu", non_blocking=True),
    "nonzero": lambda x, n: x.nonzero(),
    "mask": lambda x, n: x[x > 0],
    "masked_select": lambda x, n: x.masked_select(x > 0),
    "a mask to write through": lambda x, n: x.index_put((x > 0,), x[0]),
    "unique": lambda x, n: n.unique(),
    "unique_consecutive": lambda x, n: torch.unique_consecutive(n),
    "repeat_interleave": lambda x, n: x.repeat_interleave(n),
    "bincount": lambda x, n: torch.bincount(n),
    "index on the host": lambda x, n: x[torch.tensor([1, 0])],
    "to the device": lambda x, n: torch.arange(3).to(x.device),
    "inverse": lambda x, n: torch.linalg.inv(x.diag()),
}
NONE: dict[str, Callable[[Tensor, Tensor], object]] = {
    "to the device, not blocking": lambda x, n: torch.arange(3).to(x.device, non_blocking=True),
    "made there": lambda x, n: torch.arange(3, device=x.device) + n,
    "index": lambda x, n: x[n - 1],
    "index to write through": lambda x, n: x.index_put((n - 1,), x),
    "where": lambda x, n: torch.where(x > 0, x, 0.0),
    "repeat_interleave, its size known": lambda x, n: x.repeat_interleave(n, output_size=6),
    "nonzero, their number known": lambda x, n: torch.nonzero_static(x, size=3),
    "a number of the host": lambda x, n: x * 2 + torch.tensor(1.0),
    "another type": lambda x, n: x.double(),
    "slices": lambda x, n: x[1:].clone().flip(0).cumsum(0),
}


def found_in(work: Callable[[Tensor, Tensor], object]) -> list[str]:
    with accelerator() as device:
        x, n = torch.tensor([1.0, 2.0, 3.0]).to(device), torch.tensor([1, 2, 3]).to(device)
        with waits() as found:
            work(x, n)
    return found


@pytest.mark.parametrize("name", WAIT)
def test_a_wait_is_seen(name: str) -> None:
    assert len(found_in(WAIT[name])) == 1


@pytest.mark.parametrize("name", NONE)
def test_nothing_else_is(name: str) -> None:
    assert found_in(NONE[name]) == []


def test_gradients_are_on_the_device_and_mixing_fails() -> None:
    with accelerator() as device:
        x = torch.ones(3).to(device).requires_grad_()
        (x.square().sum() * 2).backward()
        assert isinstance(x.grad, OnDevice) and x.grad.tolist() == [4.0] * 3
        with pytest.raises(AssertionError, match="mixes devices"):
            x + torch.ones(3)
