"""Intervals hold as many truths as they say, widen with the errors, and travel with a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from scipy.stats import spearmanr

from neupol_cli import checkpoint, registry
from neupol_cli.errors import CheckpointError, DivergedError
from neupol_cli.models.calibration import (
    FORCE_PREFIX,
    PREFIX,
    Calibration,
    _conformal,
    fitted,
)
from neupol_cli.models.property import UNCERTAINTY, PropertyModel


def drawn(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 5) features, and (n, 2) errors: the first grow with a feature, the second with none."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).double()
    hidden = torch.randn(count, 5, generator=generator).double()
    size = torch.stack([torch.exp(hidden[:, 0]), torch.full((count,), 3.0).double()], 1)
    noise = torch.randn(count, 2, generator=generator).double()
    return hidden @ mixing + 7.0, (size * noise).abs()


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    known, _ = drawn(4000, 11)
    return fitted(known, *drawn(8000, 111))


def test_nine_truths_in_ten(calibration: Calibration) -> None:
    """Of 8,000 calibrating and 20,000 new ones the share has a standard error of 0.004."""
    features, errors = drawn(20000, 211)
    held = (errors <= calibration(features)).double().mean(0)
    np.testing.assert_allclose(held, 0.9, rtol=0, atol=0.014)


def drawn_atoms(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(9 n, 3) features and (9 n, 1) errors of nine atoms a structure, and which structure's they
    are: errors of one structure are large or small together, for no reason that features know."""
    generator = torch.Generator().manual_seed(seed)
    structures = torch.arange(count).repeat_interleave(9)
    features = torch.randn(9 * count, 3, generator=generator).double()
    common = torch.randn(count, 1, generator=generator).double().exp()[structures]
    noise = torch.randn(9 * count, 3, generator=generator).double().norm(dim=1, keepdim=True)
    return features, features[:, :1].exp() * common * noise, structures


def test_nine_forces_in_ten_of_few_structures() -> None:
    """Over many calibrations with 60 structures each, whose 540 atoms are no 540 samples."""
    held = []
    new, new_errors, _ = drawn_atoms(400, 1)
    for seed in range(40):
        features, errors, structures = drawn_atoms(60, 100 + seed)
        half = fitted(features, features, errors, structures)(new)
        held.append(float((new_errors <= half).double().mean()))
    assert 0.89 <= np.mean(held) <= 0.93


def test_the_scale_is_one_of_structures() -> None:
    shares = torch.arange(1.0, 101.0, dtype=torch.float64)[:, None]
    alone = torch.arange(100)
    assert float(_conformal(shares, alone)) == 91  # ceil(0.9 (100 + 1))
    assert float(_conformal(shares, alone.flip(0))) == 91
    assert _conformal(torch.cat((shares, 2 * shares), 1), alone).tolist() == [91, 182]
    # Half of all rows are one structure's, the largest ones: of the other structures alone nobody
    # would expect them, of all rows together half of them are as large.
    together = torch.where(alone < 50, alone, 50)
    assert float(_conformal(shares, together)) == 100


def test_where_the_distance_tells_the_error_widths_follow_it() -> None:
    """Errors are d times noise, whose nine in ten are below 1.645: so is the half-width, over d."""
    generator = torch.Generator().manual_seed(3)
    known = torch.randn(4000, 6, generator=generator).double()
    spread = torch.rand(6000, 1, generator=generator).double() * 2 + 0.3
    unseen = spread * torch.randn(6000, 6, generator=generator).double()
    distances = unseen.square().mean(1, keepdim=True).sqrt()
    errors = distances * torch.randn(6000, 1, generator=generator).double().abs()
    few = fitted(known, unseen[:400], errors[:400], torch.arange(400) // 4)
    ratio = few(unseen) / (1.645 * distances)
    held = (errors <= few(unseen)).double().mean()
    np.testing.assert_allclose(ratio.median(), 1.0, rtol=0, atol=0.12)
    np.testing.assert_allclose(held, 0.9, rtol=0, atol=0.04)


def test_wide_where_errors_are_large(calibration: Calibration) -> None:
    features, errors = drawn(20000, 211)
    half = calibration(features)
    # Where nothing tells the size of errors, all widths are about the same.
    assert float(half[:, 1].std() / half[:, 1].mean()) < 0.05
    hidden = torch.linalg.solve(
        torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).double().t(),
        (features - 7.0).t(),
    )[0]
    ideal = spearmanr(hidden, errors[:, 0]).statistic
    assert spearmanr(half[:, 0], errors[:, 0]).statistic > 0.95 * ideal > 0.4


def test_far_away_they_grow_with_the_distance(calibration: Calibration) -> None:
    features, _ = drawn(100, 4)
    far = calibration.mean + 100 * (features - calibration.mean)
    farther = calibration.mean + 200 * (features - calibration.mean)
    # Past the clip, twice the distance is twice the width.
    ratio = calibration(farther)[:, 1] / calibration(far)[:, 1]
    np.testing.assert_allclose(ratio, 2.0, rtol=0, atol=0.1)


def test_training_structures_are_whitened(calibration: Calibration) -> None:
    white = calibration.described(drawn(4000, 11)[0])[0][:, :5]
    np.testing.assert_allclose(white.mean(0), 0.0, rtol=0, atol=1e-9)
    covariance = white.t() @ white / len(white)
    np.testing.assert_allclose(covariance, np.eye(5), rtol=0, atol=1e-9)


def test_errors_that_are_all_zero_and_features_that_never_change() -> None:
    half = fitted(torch.ones(60, 3), torch.ones(60, 3), torch.zeros(60, 1))(
        torch.ones(4, 3).double()
    )
    assert bool(torch.isfinite(half).all()) and float(half.max()) < 1e-6


def calibrated(path: Path) -> PropertyModel:
    """A model that was told how far it may be off, stored and read again."""
    torch.manual_seed(0)
    settings = {"targets": ("U0", "mu"), "units": ("eV", "D"), "hidden": 8, "layers": 2}
    model = registry.build("egnn", settings)
    assert isinstance(model, PropertyModel)
    features = torch.randn(200, 9)
    model.calibration = fitted(features, features, torch.rand(200, 2) + 0.1).float()
    checkpoint.save(path, "egnn", model, {"targets": {"U0": "eV", "mu": "D"}})
    return registry.load_property(str(path))


def test_a_checkpoint_keeps_it(tmp_path: Path) -> None:
    model = calibrated(tmp_path / "a.safetensors")
    plain = model.predict([molecule("H2O")])
    assert {name for name in plain if name.endswith(UNCERTAINTY)} == {
        "U0_uncertainty",
        "mu_uncertainty",
    }
    assert float(plain["U0_uncertainty"][0]) > 0
    with_forces = model.predict([molecule("H2O")], forces=True)
    for name, values in plain.items():
        np.testing.assert_allclose(with_forces[name], values, rtol=0, atol=1e-6)
    assert model.dtype == torch.float32
    double = registry.load_property(str(tmp_path / "a.safetensors"), dtype=torch.float64)
    np.testing.assert_allclose(
        double.predict([molecule("H2O")])["mu_uncertainty"], plain["mu_uncertainty"], rtol=1e-4
    )


def test_a_checkpoint_keeps_that_of_forces(tmp_path: Path) -> None:
    model, path = calibrated(tmp_path / "a.safetensors"), tmp_path / "b.safetensors"
    assert "forces_uncertainty" not in model.predict([molecule("H2O")], forces=True)
    features = torch.randn(200, 9)
    model.force_calibration = fitted(features, features, torch.rand(200, 1) + 0.1).float()
    checkpoint.save(path, "egnn", model, {"targets": {"U0": "eV", "mu": "D"}})
    loaded = registry.load_property(str(path))
    structures = [molecule("H2O"), molecule("CH4")]
    answers = loaded.predict(structures, forces=True)
    half = answers["forces_uncertainty"]
    assert half.shape == (8,) and (half > 0).all()
    plain = model.predict(structures, forces=True)
    np.testing.assert_array_equal(plain["forces_uncertainty"], half)
    np.testing.assert_array_equal(answers["forces"].shape, (8, 3))
    # Hydrogens of methane are the same but for the order of sums.
    np.testing.assert_allclose(half[4:], half[4], rtol=1e-3)
    without_forces = loaded.predict(structures)
    np.testing.assert_allclose(without_forces["U0"], answers["U0"], rtol=0, atol=1e-6)
    header, tensors = checkpoint.load_file(path)
    plain_header = {k: v for k, v in header.items() if k not in ("sha256", "format", "kind")}
    del tensors[f"{FORCE_PREFIX}slope"]
    checkpoint.write(path, "weights", plain_header, tensors)
    with pytest.raises(CheckpointError, match=f"{FORCE_PREFIX}slope"):
        registry.load(str(path))


def test_one_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    calibrated(path)
    header, tensors = checkpoint.load_file(path)
    plain = {k: v for k, v in header.items() if k not in ("sha256", "format", "kind")}
    name = f"{PREFIX}slope"
    for wrong in (None, torch.zeros(1, 9), torch.full((2, 10), float("nan"))):
        changed = {k: v for k, v in tensors.items() if k != name}
        checkpoint.write(
            path, "weights", plain, changed if wrong is None else changed | {name: wrong}
        )
        with pytest.raises(CheckpointError, match=name):
            registry.load(str(path))


def test_a_bound_that_is_no_number_is_never_said() -> None:
    density, water = registry.load_density("density"), molecule("H2O")
    features = density.atom_features(water)
    assert density.calibration is not None
    assert 0 < density.uncertainty(features) < 100
    for bound in (density.calibration.low, density.calibration.high):
        bound.fill_(1e4)
    with pytest.raises(DivergedError):
        density.uncertainty(features)
    properties = registry.load_property("qm9")
    assert properties.calibration is not None
    for bound in (properties.calibration.low, properties.calibration.high):
        bound.fill_(1e4)
    with pytest.raises(DivergedError, match="uncertainty is not finite"):
        properties.predict([water])
