"""Means, spreads and atoms' energies that published networks keep outside their weights."""

from __future__ import annotations

import numpy as np
import pytest

from neupol_cli import registry

NETWORKS = {"egnn": "egnn_qm9", "equiformer": "equiformer", "dimenet": "dimenetpp"}


@pytest.mark.parametrize("spread", ["std", "mad"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_answers_in_the_targets_own_units(parity, name: str, spread: str) -> None:
    published = parity(NETWORKS[name])
    energies = {"1": -13.6, "6": -1029.9, "7": -1485.3, "8": -2042.6, "9": -2713.5, "92": 1.0}
    config = published.config | {"mean": -4.5, spread: 10.25, "atomref": energies}
    model = registry.from_published(name, published.weights, config)
    found = next(iter(model.predict(published.structures).values()))
    atoms = [sum(energies[str(z)] for z in each.numbers) for each in published.structures]
    expected = published["prediction"].reshape(-1) * 10.25 - 4.5 + atoms
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_is_added_where_nothing_is_told(parity, name: str) -> None:
    published = parity(NETWORKS[name])
    found = published.model(name).predict(published.structures)
    expected = published["prediction"].reshape(-1)
    np.testing.assert_allclose(next(iter(found.values())), expected, rtol=0, atol=1e-9)
