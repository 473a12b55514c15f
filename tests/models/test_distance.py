"""Every distance encoding, its values and derivatives; the learned table against its formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from neupol_cli.errors import UsageError
from neupol_cli.models.distance import (
    ENCODINGS,
    RadialBasisConfig,
    cosine_envelope,
    encoding,
    sinc,
)
from neupol_cli.models.nn.graph import Edges

SCOPE = RadialBasisConfig(size=6, high=5.0, bins=9)


def edges_of(lengths: torch.Tensor) -> Edges:
    """Edges along z of these lengths."""
    vectors = torch.zeros(len(lengths), 3, dtype=lengths.dtype)
    vectors = torch.cat((vectors[:, :2], lengths[:, None]), 1)
    index = torch.arange(len(lengths))
    return Edges(index, index, vectors)


def values_of(name: str, lengths: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    return encoding(name, SCOPE).double()(edges_of(lengths))


@pytest.mark.parametrize("name", ENCODINGS)
def test_size_is_what_is_said_and_gradients_are_finite_at_zero(name: str) -> None:
    lengths = torch.tensor([0.0, 1.3, 4.9, 7.0], dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    part = encoding(name, SCOPE).double()
    values = part(edges_of(lengths))
    assert values.shape == (4, part.size)
    (first,) = torch.autograd.grad(values.square().sum(), lengths, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), lengths)
    assert torch.isfinite(first).all()
    assert torch.isfinite(second).all()


@pytest.mark.parametrize("name", ENCODINGS)
def test_derivatives_equal_differences(name: str) -> None:
    lengths = torch.linspace(0.31, 4.7, 7, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: values_of(name, x), [lengths], atol=1e-6, rtol=0)


def test_gaussians_bessels_and_squares_are_their_formulas() -> None:
    r = torch.tensor([0.0, 0.7, 3.2], dtype=torch.float64)
    width = 5.0 / 5
    wanted = [
        [math.exp(-0.5 * ((x - k * width) / width) ** 2) for k in range(6)] for x in r.tolist()
    ]
    np.testing.assert_allclose(values_of("gaussian", r), wanted, rtol=0, atol=1e-12)
    scale = math.sqrt(2 / 5)
    wanted = [
        [scale * (math.sin(n * math.pi * x / 5) / x if x else n * math.pi / 5) for n in range(1, 7)]
        for x in r.tolist()
    ]
    # The orders are stored in the default type of float; whole numbers are exact in it.
    np.testing.assert_allclose(values_of("bessel", r), wanted, rtol=0, atol=1e-12)
    np.testing.assert_allclose(values_of("squared", r)[:, 0], r.square(), rtol=0, atol=1e-15)


def test_sinc_has_derivatives_of_every_order_at_zero_and_no_seam() -> None:
    x = torch.tensor([0.0, 1e-9, 0.0159, 0.016, 0.3, 2.5], dtype=torch.float64)
    torch.testing.assert_close(sinc(x), torch.sinc(x), rtol=0, atol=1e-15)
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    value, slopes = sinc(zero), []
    for _ in range(4):
        (value,) = torch.autograd.grad(value, zero, create_graph=True)
        slopes.append(float(value.detach()))
    wanted = [0, -(math.pi**2) / 3, 0, math.pi**4 / 5]
    np.testing.assert_allclose(slopes, wanted, rtol=0, atol=1e-12)
    assert torch.autograd.gradgradcheck(sinc, [x.requires_grad_()], atol=1e-6, rtol=0)


def test_layers_that_share_an_encoding_compute_it_once() -> None:
    edges = edges_of(torch.linspace(0, 4, 5))
    one, other = encoding("gaussian", SCOPE), encoding("gaussian", SCOPE)
    assert one(edges) is other(edges)
    finer = encoding("gaussian", RadialBasisConfig(size=7, high=5.0))
    assert finer(edges).shape == (5, 7)


def test_the_envelope_ends_at_the_cutoff() -> None:
    lengths = torch.tensor([0.0, 2.5, 5.0, 6.0], dtype=torch.float64)
    got = cosine_envelope(lengths, 5.0)
    np.testing.assert_allclose(got, [1, 0.5, 0, 0], rtol=0, atol=1e-15)


def test_an_unknown_encoding_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="squared, gaussian, bessel, expnormal, mlp, learned"):
        encoding("fourier", SCOPE)
