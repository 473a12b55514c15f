"""The type of number that models are built with is the whole process', and so is its end."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from neupol_cli.devices import default_dtype
from neupol_cli.errors import UsageError


def test_threads_that_build_at_once_leave_the_default_as_it_was() -> None:
    def build(name: str) -> tuple[str, torch.dtype]:
        with default_dtype(name):
            time.sleep(0.002)
            return name, torch.ones(1).dtype

    names = ["float64", "float32", "float64"] * 4
    with ThreadPoolExecutor(4) as pool:
        built = list(pool.map(build, names))
    assert built == [(name, getattr(torch, name)) for name in names]
    assert torch.get_default_dtype() == torch.float32


def test_it_is_put_back_after_an_error() -> None:
    with pytest.raises(UsageError, match="float32, float64"), default_dtype("float16"):
        pass
    with pytest.raises(RuntimeError), default_dtype("float64"):
        raise RuntimeError
    assert torch.get_default_dtype() == torch.float32
