"""The numbers that describe learned encodings, on tables that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from neupol_cli import registry
from neupol_cli.encoding.study import (
    Tables,
    characteristics,
    found_in,
    labels,
    polynomial,
    principal,
    profile,
    ranks,
    similarity,
)
from neupol_cli.models.nn.hermite import HermiteTable

X = np.linspace(0, 1, 41)


def table(*columns: np.ndarray, x: np.ndarray = X) -> Tables:
    """One layer of these curves, with numerical slopes."""
    heights = np.stack(columns, 1)
    return Tables("distance", ("t",), x[None], heights[None], np.gradient(heights, x, axis=0)[None])


def measured(*columns: np.ndarray) -> dict[str, float | None]:
    one = table(*columns)
    return characteristics(one.x, one.heights)


def test_polynomials_are_as_in_the_paper():
    found = {key: round(value, 2) for key, value in polynomial(37).items()}
    assert found == {
        "nonlinearity": 0.08,
        "nonmonotonicity": 0.0,
        "diversity": 0.09,
        "smoothness": 0.92,
    }


def test_straight_lines_have_neither_character_nor_diversity():
    found = measured(X, 1 - 2 * X, 5 * X + 3)
    for key in ("nonlinearity", "nonmonotonicity", "diversity"):
        assert found[key] == pytest.approx(0, abs=1e-14)


def test_a_line_and_a_symmetric_valley():
    found = measured(X, (np.arange(41.0) - 20) ** 2)  # whole numbers, so that ranks tie exactly
    assert found["nonlinearity"] == pytest.approx(0.5, abs=1e-14)
    assert found["nonmonotonicity"] == pytest.approx(0.5, abs=1e-14)
    assert found["diversity"] == pytest.approx(1, abs=1e-14)


def test_smoothness_is_one_less_the_loss_of_training():
    steps = characteristics(np.arange(3.0)[None], np.array([[[1.0], [2.0], [4.0]]]))
    assert steps["smoothness"] == pytest.approx(1 - (1 + 2) / (1 + 2), abs=1e-15)
    torch.manual_seed(0)
    module = HermiteTable(5, 20, 0.0, 3.0).double()
    tables = Tables.of("distance", [("t", module)])
    found = characteristics(tables.x, tables.heights)
    assert found["smoothness"] == pytest.approx(1 - module.smoothness().item(), abs=1e-14)


def test_correlations_agree_with_scipy():
    rng = np.random.default_rng(0)
    h = rng.normal(size=(2, 30, 4)).round(1)  # rounding makes ties
    x = np.linspace(0, 5, 30)
    found = characteristics(np.stack([x, x]), h)
    columns = [h[layer, :, j] for layer in range(2) for j in range(4)]
    assert np.array_equal(ranks(h[0])[:, 0], stats.rankdata(h[0, :, 0]))
    pearson = np.mean([stats.pearsonr(c, x)[0] ** 2 for c in columns])
    spearman = np.mean([stats.spearmanr(c, x)[0] ** 2 for c in columns])
    pairs = [
        stats.pearsonr(h[layer, :, j], h[layer, :, k])[0] ** 2
        for layer in range(2) for j in range(4) for k in range(j + 1, 4)
    ]  # fmt: skip
    assert found["nonlinearity"] == pytest.approx(1 - pearson, abs=1e-12)
    assert found["nonmonotonicity"] == pytest.approx(1 - spearman, abs=1e-12)
    assert found["diversity"] == pytest.approx(1 - np.mean(pairs), abs=1e-12)


def test_constant_dimensions_are_left_out():
    with_constant = measured(X, np.full_like(X, 3.0), (X - 0.5) ** 2)
    without = measured(X, (X - 0.5) ** 2)
    for key in ("nonlinearity", "nonmonotonicity", "diversity"):
        assert with_constant[key] == pytest.approx(without[key], abs=1e-14)
    nothing = measured(np.ones_like(X))
    assert nothing["nonlinearity"] is None
    assert nothing["diversity"] is None
    assert nothing["smoothness"] == 1.0


def test_similarity():
    line, valley = table(X), table((X - 0.5) ** 2)
    assert similarity(line, table(3 - 4 * X)) == pytest.approx(1, abs=1e-14)
    assert similarity(line, valley) == pytest.approx(0, abs=1e-14)
    both = table(X, (X - 0.5) ** 2)
    assert similarity(both, both) == pytest.approx(0.5, abs=1e-14)


def test_similarity_over_the_common_range_of_different_grids():
    wide = np.linspace(0, 2, 17)
    curved, line = table(np.where(wide > 1.5, 5, wide), x=wide), table(X)
    assert similarity(curved, line) == pytest.approx(1, abs=1e-14)  # both are lines up to 1
    beyond = np.linspace(2, 3, 5)
    assert similarity(line, table(beyond, x=beyond)) is None


def test_similarity_needs_layer_for_layer():
    one = table(X)
    two = Tables("distance", ("a", "b"), np.stack([X, X]), *np.zeros((2, 2, 41, 1)))
    assert similarity(one, two) is None


def test_curves_between_bins_are_the_encodings_own():
    torch.manual_seed(0)
    module = HermiteTable(3, 9, 0.5, 4.5).double()
    tables = Tables.of("distance", [("t", module)])
    x = np.linspace(0, 5, 57)
    expected = module(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(tables.at(x)[0], expected, rtol=0, atol=1e-14)


def test_slopes_are_by_angstrom_and_profiles_by_their_spread():
    torch.manual_seed(0)
    module = HermiteTable(2, 5, 0.0, 2.0).double()
    with torch.no_grad():
        module.slopes.copy_(torch.tensor([[1.0, 0], [2, 0], [3, 0], [4, 0], [5, 0]]) / 2)
    tables = Tables.of("distance", [("t", module)])
    np.testing.assert_allclose(tables.slopes[0, :, 0], [1, 2, 3, 4, 5], rtol=0, atol=1e-14)
    # The second dimension is flat and left out.
    np.testing.assert_allclose(profile(tables), np.arange(1, 6) / np.sqrt(2), rtol=0, atol=1e-12)


def test_principal_components():
    points, share = principal(np.stack([X, 2 * X, -2 * X], 1))
    np.testing.assert_allclose(share, [1, 0], rtol=0, atol=1e-14)
    np.testing.assert_allclose(np.abs(np.diff(points[:, 0])), 3 / 40, rtol=0, atol=1e-12)
    assert principal(X[:, None])[0].shape == (41, 2)


def test_dimenet_has_tables_of_distances_and_of_an_angle():
    sizes = {"hidden": 8, "layers": 1, "triplet": 4, "basis": 2, "output": 4}
    model = registry.build("dimenet", {"encoding": "learned", "encoding_size": 5, **sizes})
    distance, angle = found_in(model)
    assert (distance.quantity, distance.heights.shape) == ("distance", (2, 64, 5))
    assert (angle.quantity, angle.heights.shape) == ("angle", (1, 64, 7))
    assert angle.x[0, -1] == pytest.approx(np.pi)


def test_labels_are_short_and_differ():
    assert labels(["runs/U0", "runs/mu"]) == ["U0", "mu"]
    assert labels(["a/U0/best.safetensors", "b/U0"]) == ["a/U0", "b/U0"]
    assert labels(["U0.safetensors"]) == ["U0"]
    assert labels(["x", "x"]) == ["x", "x"]
