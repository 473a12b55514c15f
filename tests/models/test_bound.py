"""What cannot be negative is not, and is what the network says wherever that has a sign."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from neupol_cli import registry
from neupol_cli.errors import UsageError
from neupol_cli.models.bound import BEND, STRAIGHT, bounded

SCALE = torch.tensor([2.0, 0.5], dtype=torch.float64)
FIRST = torch.tensor([True, False])


def of(values: list[float], which: torch.Tensor = FIRST) -> torch.Tensor:
    """The bound of some values in two columns, the first of scale 2."""
    column = torch.tensor(values, dtype=torch.float64)
    return bounded(torch.stack((column, column), 1), SCALE, which)


def test_one_column_is_bounded_and_the_other_is_as_it_was() -> None:
    values = [-1e6, -3.0, -0.1, 0.0, 0.1, 0.39, 0.41, 3.0, 1e6]
    first, second = of(values).unbind(1)
    assert second.tolist() == values
    assert float(first.min()) >= 0 and bool((first.diff() >= 0).all())
    # A fifth of the scale above zero, and farther, nothing is changed at all.
    assert first[6:].tolist() == values[6:]
    np.testing.assert_allclose(first[5], 0.39, rtol=1e-9)
    np.testing.assert_allclose(first[3], BEND * 2.0 * np.log(2), rtol=1e-12)


def test_it_has_no_step_and_finite_slopes() -> None:
    straight = STRAIGHT * BEND * 2.0
    values = torch.tensor([-1e8, -50.0, -1e-9, 0.0, straight, straight + 1e-12, 1e8]).double()
    values.requires_grad_()
    first = bounded(values[:, None], SCALE[:1], FIRST[:1])[:, 0]
    (slope,) = torch.autograd.grad(first.sum(), values, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), values)
    assert bool(torch.isfinite(slope).all()) and bool(torch.isfinite(second).all())
    assert bool((slope >= 0).all()) and bool((slope <= 1).all())
    np.testing.assert_allclose(slope[3].item(), 0.5, rtol=1e-12)
    assert abs(first[5].item() - first[4].item()) < 1e-9


def test_only_numbers_among_the_targets() -> None:
    settings = {"targets": ("mu", "dipole"), "units": ("D", "D"), "outputs": ("scalar", "vector")}
    settings |= {"hidden": 8, "layers": 1, "heads": 2}
    for name in ("r2", "dipole"):
        with pytest.raises(UsageError, match=f"positive names {name}"):
            registry.build("equivariant-transformer", settings | {"positive": (name,)})
    model = registry.build("equivariant-transformer", settings | {"positive": ("mu",)})
    assert model.positive.tolist() == [True, False, False, False]


def test_the_models_of_before_have_none() -> None:
    model = registry.load_property(str(Path(__file__).parents[1] / "data" / "run-0.1"))
    assert model.config.positive == () and not bool(model.positive.any())
    assert registry.load_property("points-zpve").config.positive == ("zpve",)
