"""What a trained model's references and shift take up of another method's labels."""

from __future__ import annotations

import numpy as np
import pytest

from neupol_cli.training.target_normalization import ANY, LEVEL, SUM, corrections


def made(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) compositions and (N,) noise of 0.02."""
    rng = np.random.default_rng(seed)
    return rng.integers(1, 6, (count, 3)).astype(float), 0.02 * rng.normal(size=count)


def test_energies_of_atoms_are_found() -> None:
    counts, noise = made(400)
    errors = (counts @ [1.0, -3.0, 20.0] + noise)[:, None]
    references, shift = corrections(errors, counts, [ANY])
    np.testing.assert_allclose(references[0], [1.0, -3.0, 20.0], rtol=0, atol=0.004)
    assert shift.tolist() == [0.0]


def test_a_shift_is_found() -> None:
    counts, noise = made(400)
    references, shift = corrections((0.5 + noise)[:, None], counts, [ANY])
    assert references.tolist() == [[0.0, 0.0, 0.0]]
    assert shift[0] == pytest.approx(0.5, abs=0.005)


def test_levels_keep_no_references_and_sums_no_shift() -> None:
    counts, noise = made(400)
    errors = np.stack([counts @ [1.0, -3.0, 20.0] + noise, 0.5 + noise], 1)
    references, shifts = corrections(errors, counts, [LEVEL, SUM])
    assert not references[0].any() and shifts[1] == 0
    assert shifts[0] == pytest.approx(errors[:, 0].mean(), rel=0, abs=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 11, 12, 20, 400])
def test_noise_is_left_alone(count: int) -> None:
    """However few structures there are: a fit to noise is worse than none."""
    for seed in range(20):
        counts, noise = made(count, seed)
        references, shift = corrections(noise[:, None], counts, [ANY])
        assert not references.any()
        # One case in many may be borne out by chance; what it shifts is as small as the noise.
        assert abs(shift[0]) < 0.02
