"""Every distance encoding, its values and derivatives; the learned table against its formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from neupol_cli.errors import UsageError
from neupol_cli.models.distance import (
    ENCODINGS,
    HermiteTable,
    Range,
    cosine_envelope,
    encoding,
    smoothness,
)
from neupol_cli.models.nn.graph import Edges

SCOPE = Range(size=6, high=5.0, bins=9)


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


def table(seed: int = 0, size: int = 4, bins: int = 9) -> HermiteTable:
    torch.manual_seed(seed)
    made = HermiteTable(size, bins, 0.5, 4.5).double()
    torch.nn.init.normal_(made.heights)
    torch.nn.init.normal_(made.slopes)
    return made


def test_the_table_is_the_papers_interpolation() -> None:
    made = table()
    for x in (0.5, 0.9, 2.0, 3.7499, 4.5):
        k = min(int((x - 0.5) / 0.5), 7)
        t = (x - 0.5) / 0.5 - k
        c1, c3, c4 = 2 * t**3 - 3 * t**2 + 1, t**3 - 2 * t**2 + t, t**3 - t**2
        h, g = made.heights.detach(), made.slopes.detach()
        wanted = c1 * h[k] + (1 - c1) * h[k + 1] + c3 * g[k] + c4 * g[k + 1]
        got = made(torch.tensor([x], dtype=torch.float64))[0].detach()
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12)


def test_the_table_and_its_derivative_are_continuous_at_the_bins() -> None:
    made = table()
    near = torch.arange(1.0, 4.5, 0.5, dtype=torch.float64)
    sides = [(near + shift).requires_grad_() for shift in (-1e-9, 1e-9)]
    values = [made(x) for x in sides]
    slopes = [torch.autograd.grad(v.sum(), x)[0] for v, x in zip(values, sides, strict=True)]
    left, right = (v.detach() for v in values)
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-7)
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=0, atol=1e-6)


def test_slopes_are_those_of_the_curve_in_units_of_a_bin() -> None:
    made = table()
    centres = torch.linspace(0.5, 4.5, 9, dtype=torch.float64)[1:-1].requires_grad_()
    for j in range(4):
        (slope,) = torch.autograd.grad(made(centres)[:, j].sum(), centres)
        wanted = made.slopes.detach()[1:-1, j] / 0.5
        np.testing.assert_allclose(slope, wanted, rtol=0, atol=1e-12)


def test_outside_its_range_the_table_is_constant() -> None:
    made = table()
    x = torch.tensor([-1.0, 0.5, 4.5, 9.0], dtype=torch.float64)
    values = made(x).detach()
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[2], values[3])


def test_smoothness_is_the_papers_ratio() -> None:
    made = table()
    h = made.heights.detach()
    steps = sum(float((h[k + 1] - h[k]).norm()) for k in range(8))
    wanted = steps / sum(float(h[k].norm()) for k in range(8))
    assert abs(float(made.smoothness().detach()) - wanted) < 1e-12
    both = torch.nn.ModuleList([table(0), table(1)])
    mean = (both[0].smoothness() + both[1].smoothness()) / 2  # type: ignore[operator]
    found = smoothness(both)
    assert found is not None
    assert abs(float((found - mean).detach())) < 1e-12
    assert smoothness(torch.nn.Linear(2, 2)) is None


def test_layers_that_share_an_encoding_compute_it_once() -> None:
    edges = edges_of(torch.linspace(0, 4, 5))
    one, other = encoding("gaussian", SCOPE), encoding("gaussian", SCOPE)
    assert one(edges) is other(edges)
    finer = encoding("gaussian", Range(size=7, high=5.0))
    assert finer(edges).shape == (5, 7)


def test_the_envelope_ends_at_the_cutoff() -> None:
    lengths = torch.tensor([0.0, 2.5, 5.0, 6.0], dtype=torch.float64)
    got = cosine_envelope(lengths, 5.0)
    np.testing.assert_allclose(got, [1, 0.5, 0, 0], rtol=0, atol=1e-15)


def test_an_unknown_encoding_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="squared, gaussian, bessel, expnormal, mlp, learned"):
        encoding("fourier", SCOPE)
