"""What is made of weights is made once, and belongs to them."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch
from torch import Tensor

from neupol_cli.models.kernels.made_of_weights import MadeOfWeights

THREADS = 8


def test_it_is_made_again_for_other_weights_only() -> None:
    made, calls = MadeOfWeights[Tensor](), []

    def get(weights: Tensor) -> Tensor:
        def make() -> Tensor:
            calls.append(weights)
            return 2 * weights

        return made.get(weights.clone(), make)

    weights = torch.arange(4.0)
    first = get(weights)
    assert get(weights) is first and len(calls) == 1
    for other in (weights + 1e-6, weights.double(), weights[:3], torch.full((4,), torch.nan)):
        assert get(other).dtype == other.dtype and get(other).shape == other.shape
        torch.testing.assert_close(get(other), 2 * other, rtol=0, atol=0, equal_nan=True)
    # Of NaN nothing is known to be the same.
    assert len(calls) == 1 + 3 + 3


def test_a_copy_has_its_own() -> None:
    made, weights = MadeOfWeights[Tensor](), torch.arange(4.0)
    first = made.get(weights, lambda: 2 * weights)
    for copied in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(copied.get(weights, lambda: 3 * weights), first)
        copied.get(weights + 1, lambda: 3 * weights)
        assert made.get(weights, lambda: 3 * weights) is first


def test_threads_make_it_once_and_see_it_whole() -> None:
    made, weights, calls = MadeOfWeights[list[int]](), torch.arange(4.0), []
    barrier = Barrier(THREADS)

    def make() -> list[int]:
        calls.append(None)
        whole: list[int] = []
        for n in range(20_000):  # long enough for the interpreter to change threads
            whole.append(n)
        return whole

    def get(_: int) -> list[int]:
        barrier.wait()
        return made.get(weights, make)

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(get, range(THREADS)))
    assert len(calls) == 1 and all(each is found[0] and len(each) == 20_000 for each in found)
