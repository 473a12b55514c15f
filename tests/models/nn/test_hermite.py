"""Tables of cubic Hermite pieces: the formula, its derivatives, and the kernel that reads them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from neupol_cli import registry
from neupol_cli.errors import UsageError
from neupol_cli.models.distance import smoothness
from neupol_cli.models.kernels import table_rows
from neupol_cli.models.kernels.table_rows import weighted_rows
from neupol_cli.models.nn.hermite import HermiteTable, Interpolation, TableLookup
from tests.contracts.conftest import SMALL


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


@pytest.mark.parametrize("interpolation", ["linear", "nearest"])
def test_simpler_interpolations_read_heights_alone(interpolation: Interpolation) -> None:
    torch.manual_seed(0)
    made = HermiteTable(3, 5, 0.0, 2.0, "random", interpolation).double()
    assert made.slopes is None and [n for n, _ in made.named_parameters()] == ["heights"]
    h = made.heights.detach()
    x = torch.tensor([0.1, 0.3, 0.75, 1.9, 3.0], dtype=torch.float64, requires_grad=True)
    near = {"linear": h[0] * 0.4 + h[1] * 0.6, "nearest": h[1]}
    values = made(x)
    torch.testing.assert_close(values[1], near[interpolation], rtol=0, atol=1e-12)
    middle = {"linear": (h[1] + h[2]) / 2, "nearest": h[2]}
    torch.testing.assert_close(values[2], middle[interpolation], rtol=0, atol=1e-12)
    assert torch.equal(values[4], h[4])
    (slope,) = torch.autograd.grad(values[:, 0].sum(), x)
    straight = {"linear": (h[1] - h[0])[0] / 0.5, "nearest": torch.tensor(0.0).double()}
    torch.testing.assert_close(slope[1], straight[interpolation], rtol=0, atol=1e-12)


def test_a_random_start_is_rough_and_the_other_is_not() -> None:
    torch.manual_seed(0)
    rough = HermiteTable(64, 64, 0.0, 5.0, "random")
    smooth = HermiteTable(64, 64, 0.0, 5.0)
    for numbers in (rough.heights, rough.slopes):
        assert abs(float(numbers.detach().mean())) < 0.05  # three standard errors
        assert abs(float(numbers.detach().std()) - 1) < 0.04
    assert float(rough.smoothness().detach()) > 1.2 > 0.2 > float(smooth.smoothness().detach())


@pytest.mark.parametrize("name", ["egnn", "dimenet"])
def test_a_networks_tables_are_as_it_says(name: str) -> None:
    settings = SMALL[name] | {"encoding": "learned", "encoding_bins": 16}
    built = registry.build(name, settings | {"table_start": "random", "interpolation": "linear"})
    tables = [module for module in built.modules() if isinstance(module, HermiteTable)]
    assert tables and all(one.interpolation == "linear" and one.slopes is None for one in tables)
    assert all(float(one.smoothness().detach()) > 0.8 for one in tables)
    for wrong in ({"table_start": "flat"}, {"interpolation": "spline"}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            registry.build(name, settings | wrong)


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


def lookup_and_table() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.rand(17, dtype=torch.float64) * 6 - 1  # beyond both ends of [0, 4]
    return x, torch.randn(10, 3, dtype=torch.float64)


def test_the_kernel_reads_what_the_formula_says() -> None:
    x, table = lookup_and_table()
    lookup = TableLookup.of(x, 5, 4.0)
    read = weighted_rows(table, lookup.left, lookup.weights, 5)
    torch.testing.assert_close(read, lookup.read_plainly(table), rtol=0, atol=1e-14)


@pytest.mark.parametrize("compiled", [True, False])
def test_the_kernels_derivatives_are_the_formulas(
    monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    if not compiled:  # a machine without a compiler
        monkeypatch.setattr(table_rows.compiler, "library_for", lambda *_: None)
    x, _ = lookup_and_table()
    table = torch.randn(10, 75, dtype=torch.float64).requires_grad_()  # whole vectors and a rest
    lookup = TableLookup.of(x.requires_grad_(), 5, 4.0)
    gradient = torch.randn(17, 75, dtype=torch.float64)
    inputs = table, lookup.weights
    found = torch.autograd.grad(
        weighted_rows(table, lookup.left, lookup.weights, 5), inputs, gradient
    )
    wanted = torch.autograd.grad(lookup.read_plainly(table), inputs, gradient)
    for ours, plain in zip(found, wanted, strict=True):
        assert float(plain.abs().max()) > 1
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernels", ["0", "1"])
def test_reading_is_differentiable_twice(monkeypatch: pytest.MonkeyPatch, kernels: str) -> None:
    monkeypatch.setenv("NEUPOL_KERNELS", kernels)
    x, table = (tensor.requires_grad_() for tensor in lookup_and_table())

    def read(x: Tensor, table: Tensor) -> Tensor:
        return TableLookup.of(x, 5, 4.0).read(table)

    assert torch.autograd.gradcheck(read, (x, table), atol=1e-8, rtol=0)
    assert torch.autograd.gradgradcheck(read, (x, table), atol=1e-8, rtol=0)


def test_no_kernel_is_called_where_kernels_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUPOL_KERNELS", "0")
    monkeypatch.setattr("neupol_cli.models.nn.hermite.weighted_rows", None)
    x, table = lookup_and_table()
    assert TableLookup.of(x, 5, 4.0).read(table).shape == (17, 3)
