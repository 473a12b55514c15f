"""The two halves of DimeNet's angular basis: spherical Bessel functions and Legendre polynomials.

    R_ln(x) = sqrt(2) / |j_{l+1}(z_ln)| j_l(z_ln x)        0 <= x <= 1, z_ln the n-th zero of j_l
    F_l(c)  = sqrt((2l+1) / 4 pi) P_l(c)                   c a cosine

(Gasteiger, Groß and Günnemann 2020, eq. 6). The textbook recurrence of j_l loses all digits of a
float32 at short distances. R_ln is an entire function of one number, so a short Chebyshev series
holds it to the last digit; its coefficients are made once, in float64.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from neupol_cli.models.nn.harmonics import Constant


def spherical_bessel(order: int, x: np.ndarray) -> np.ndarray:
    """j_l(x) for any shape of x, to about 1e-16 absolute.

    By Gauss-Legendre quadrature of j_l(x) = (-i)^l / 2 int_-1^1 exp(i x t) P_l(t) dt
    (DLMF 10.54.2): no cancellation at small x, no recurrence.
    """
    nodes, weights = _quadrature(order, 40 + int(np.abs(x).max()))
    phase = np.multiply.outer(x, nodes) - 0.5 * np.pi * order  # the real part of (-i)^l exp(ixt)
    return np.cos(phase) @ weights


@lru_cache(maxsize=64)
def _quadrature(order: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes t, and weights times P_l(t) / 2."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return nodes, 0.5 * weights * np.polynomial.legendre.Legendre.basis(order)(nodes)


@lru_cache(maxsize=8)
def bessel_zeros(orders: int, count: int) -> np.ndarray:
    """(orders, count): the first positive zeros of j_0 .. j_{orders-1}, to about 1e-15 relative.

    Those of j_0 are n pi; between two zeros of j_l lies exactly one of j_{l+1}.
    """
    zeros = np.pi * np.arange(1.0, count + orders)
    rows = [zeros[:count]]
    for order in range(1, orders):
        zeros = _bisected(order, zeros[:-1], zeros[1:])
        rows.append(zeros[:count])
    return np.stack(rows)


def _bisected(order: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The zero of j_l in each interval; 55 halvings leave no bit."""
    sign = np.sign(spherical_bessel(order, left))
    for _ in range(55):
        middle = 0.5 * (left + right)
        before = np.sign(spherical_bessel(order, middle)) == sign
        left, right = np.where(before, middle, left), np.where(before, right, middle)
    return 0.5 * (left + right)


class SphericalBessel(nn.Module):
    """(...,) x in [0, 1] -> (..., L N) R_ln(x), index N l + n; differentiable to any order."""

    def __init__(self, orders: int, count: int) -> None:
        super().__init__()
        zeros = bessel_zeros(orders, count)
        degree = int(zeros.max() / 2) + 30  # a wave exp(i k y) needs a degree of k and some more
        nodes = np.cos(np.pi * (np.arange(degree) + 0.5) / degree)
        values = [
            math.sqrt(2)
            * spherical_bessel(order, z * (nodes[:, None] + 1) / 2)
            / np.abs(spherical_bessel(order + 1, z))
            for order, z in enumerate(zeros)
        ]  # (degree, N) each
        series = np.polynomial.chebyshev.chebvander(nodes, degree - 1).T @ np.concatenate(values, 1)
        series *= 2 / degree
        series[0] /= 2
        self.coefficients = Constant(torch.from_numpy(series))

    def forward(self, x: Tensor) -> Tensor:
        terms = chebyshev(2 * x - 1, self.coefficients.exact.shape[0])
        return terms @ self.coefficients.like(x)


def chebyshev(y: Tensor, count: int) -> Tensor:
    """(...,) y -> (..., count) T_0(y) .. T_{count-1}(y), doubling by T_{m+k} = 2 T_m T_k - T_{m-k}.

    Rounding errors grow with the logarithm of the degree only.
    """
    terms = torch.stack((torch.ones_like(y), y), -1)
    while terms.shape[-1] < count:
        m = terms.shape[-1] - 1
        more = 2 * terms[..., m:] * terms[..., 1:] - terms[..., :m].flip(-1)
        terms = torch.cat((terms, more), -1)
    return terms[..., :count]


def legendre(cosines: Tensor, orders: int) -> Tensor:
    """(...,) cosines -> (..., orders) F_l; (l+1) P_{l+1} = (2l+1) c P_l - l P_{l-1}."""
    terms = [torch.ones_like(cosines), cosines]
    for order in range(1, orders - 1):
        up, down = (2 * order + 1) / (order + 1), order / (order + 1)
        terms.append(up * cosines * terms[-1] - down * terms[-2])
    factors = legendre_factors(orders)
    return torch.stack([f * t for f, t in zip(factors, terms, strict=False)], -1)


def legendre_factors(orders: int) -> list[float]:
    """F_l / P_l."""
    return [math.sqrt((2 * order + 1) / (4 * math.pi)) for order in range(orders)]
