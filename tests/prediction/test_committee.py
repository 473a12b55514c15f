"""Batches, memory and committees behind neupol predict."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch

from neupol_cli import registry
from neupol_cli.errors import InputError, TemporaryError
from neupol_cli.io.hdf5 import Target
from neupol_cli.models.nn.graph import Graph
from neupol_cli.models.nn.neighbours import neighbours
from neupol_cli.models.property import PropertyModel
from neupol_cli.prediction.columns import combined
from neupol_cli.prediction.committee import Prediction, chunks


@pytest.fixture(scope="module")
def model(untrained) -> PropertyModel:
    return registry.load(str(untrained()), dtype=torch.float64)


def molecules(count: int) -> list[ase.Atoms]:
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 6, count)
    return [ase.Atoms(f"C{n}", generator.uniform(0, 4, (n, 3))) for n in sizes]


def test_batches_give_what_single_structures_give(model: PropertyModel) -> None:
    many = molecules(9)
    together = model.predict(many, forces=True, pairs=30)
    alone = [model.predict([one], forces=True) for one in many]
    for name in ("U0", "mu", "forces"):
        wanted = np.concatenate([one[name] for one in alone])
        np.testing.assert_allclose(together[name], wanted, rtol=0, atol=1e-12)


def test_a_batch_that_does_not_fit_is_halved(
    model: PropertyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = molecules(7)
    wanted = model.predict(many)["U0"]
    sizes = []

    def small_memory(self: PropertyModel, graph: Graph, *rest: bool) -> tuple[torch.Tensor, ...]:
        sizes.append(graph.size)
        if graph.size > 2:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return original(self, graph, *rest)

    original = PropertyModel._evaluate
    monkeypatch.setattr(PropertyModel, "_evaluate", small_memory)
    np.testing.assert_allclose(model.predict(many)["U0"], wanted, rtol=0, atol=1e-12)
    assert sizes[0] == 7 and max(s for s in sizes[1:] if s <= 2) == 2


def test_one_structure_that_does_not_fit_says_so(
    model: PropertyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*given: object) -> None:
        raise MemoryError

    monkeypatch.setattr(PropertyModel, "_evaluate", no_memory)
    with pytest.raises(TemporaryError, match="4 atoms"):
        model.predict([ase.Atoms("C4", np.eye(4, 3))])


def test_other_errors_are_not_taken_for_memory(
    model: PropertyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(PropertyModel, "_evaluate", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        model.predict(molecules(2))


def test_all_pairs_of_a_huge_molecule_are_refused() -> None:
    graph = Graph.from_atoms([ase.Atoms("H20001", np.zeros((20001, 3)))], torch.float64)
    with pytest.raises(InputError, match="20001 atoms"):
        neighbours(graph, graph.positions, None)


def test_the_sum_keeps_millielectronvolts_of_large_energies(untrained) -> None:
    model = registry.load(str(untrained()))
    assert model.dtype == torch.float32
    with torch.no_grad():
        model.shift.fill_(-11185.123456789)
    value = model.predict([ase.Atoms("O")])["U0"][0]
    with torch.no_grad():
        model.shift.zero_()
    assert abs(value - model.predict([ase.Atoms("O")])["U0"][0] + 11185.123456789) < 1e-9


def answered(values: np.ndarray, half: float) -> list[dict[str, np.ndarray]]:
    """What M models say: (M, N, 3) forces, and of their x components as energies (M, N)."""
    halves = np.full(values.shape[1], half)
    names = ("energy_uncertainty", "forces_uncertainty")
    widths = dict.fromkeys(names, halves)
    return [{"energy": rows[:, 0], "forces": rows, **widths} for rows in values]


@pytest.mark.parametrize("models", [2, 3, 5])
def test_scatter_within_the_models_own_widths_seldom_widens(models: int) -> None:
    """Models that are off as they say, independently of each other: one case in ten, and a little;
    the standard error of the share is 0.002. The mean of them is nearer than their widths say."""
    values = np.random.default_rng(models).normal(size=(models, 20_000, 3))
    ball = {"energy": 1.6448536, "forces": 2.5002777}  # hold nine in ten
    for name, half in ball.items():
        columns = combined(answered(values, half), [name])
        wider = columns.uncertainties[name] / half
        assert (wider > 1).mean() == pytest.approx(0.1, abs=0.008) and wider.min() == 1
        errors = values.mean(0)[:, 0] if name == "energy" else values.mean(0)
        errors = np.linalg.norm(errors.reshape(20_000, -1), axis=1)
        assert (errors <= columns.uncertainties[name]).mean() > 0.95


def test_a_committee_that_agrees_is_as_uncertain_as_its_members() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 3))
    for others in (0.0, 1e-3):
        values = np.stack([rows, rows + others, rows - others])
        columns = combined(answered(values, 0.4), ["energy", "forces", "mu"])
        for name in ("energy", "forces"):
            np.testing.assert_allclose(columns.uncertainties[name], 0.4, rtol=1e-12)
        assert "mu" not in columns.means
    # Three numbers 0, d, -d scatter by d; 2 times 2.7055 over 4.6052 is the share of it.
    values = np.stack([rows, rows + 1.0, rows - 1.0])
    columns = combined(answered(values, 0.4), ["energy"])
    np.testing.assert_allclose(columns.uncertainties["energy"], 1.1750**0.5, rtol=1e-4)


def test_one_that_is_not_calibrated_leaves_no_interval() -> None:
    first, second = answered(np.ones((2, 4, 3)), 0.4)
    del second["forces_uncertainty"]
    columns = combined([first, second], ["energy", "forces"])
    assert set(columns.uncertainties) == {"energy"} and set(columns.spreads) == {"energy", "forces"}


def test_chunks_keep_order_and_lose_nothing() -> None:
    named = [(str(k), ase.Atoms("H")) for k in range(7)]
    found = list(chunks(iter(named), 3))
    assert [[label for label, _ in some] for some in found] == [
        ["0", "1", "2"],
        ["3", "4", "5"],
        ["6"],
    ]
    large = [(str(k), ase.Atoms("H3")) for k in range(7)]
    assert [len(some) for some in chunks(large, 5, 6)] == [2, 2, 2, 1]


def test_an_interval_of_what_cannot_be_negative_begins_at_zero() -> None:
    values = {"mu": 0.1, "r2": 2.0, "homo": -0.1, "gap": -0.5}
    said = Prediction(
        "x",
        ase.Atoms("H"),
        {name: Target(np.asarray(value), "") for name, value in values.items()},
        uncertainty=dict.fromkeys(values, 0.3),
    ).record()["properties"]
    intervals = {name: said[name]["interval"] for name in values}  # type: ignore[index]
    expected = {"mu": [0, 0.4], "r2": [1.7, 2.3], "homo": [-0.4, 0.2], "gap": [-0.8, -0.2]}
    for name, ends in expected.items():
        np.testing.assert_allclose(intervals[name], ends, rtol=0, atol=1e-12)
