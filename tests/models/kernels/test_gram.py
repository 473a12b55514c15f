"""Gradients of weights: the compiled loop against PyTorch."""

from __future__ import annotations

import pytest
import torch

from neupol_cli.models.kernels.gram import gram
from tests.compiler import needs_compiler

pytestmark = needs_compiler


@pytest.mark.parametrize(("rows", "ins", "outs"), [(1000, 128, 32), (77, 7, 48), (64, 1, 16)])
def test_gradients_of_weights(rows: int, ins: int, outs: int) -> None:
    g, x = torch.randn(rows, ins), torch.randn(rows, outs)
    exact = g.double().t() @ x.double()
    threads = torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        found = gram(g, x)
        assert found is not None
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-6 * rows**0.5 * 10)
    torch.set_num_threads(threads)
    assert gram(g, x[:, :-1]) is None and gram(g[:9], x[:9]) is None
    assert gram(g.double(), x.double()) is None


def test_the_default_type_of_number_changes_nothing() -> None:
    g, x = torch.randn(200, 16), torch.randn(200, 32)
    usual = gram(g, x)
    torch.set_default_dtype(torch.float64)
    try:
        found = gram(g, x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert usual is not None and found is not None
    assert found.dtype == torch.float32 and torch.equal(found, usual)
