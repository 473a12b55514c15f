"""Muon: what its steps are, what the others' are, and that it goes on exactly where it stopped."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from neupol_cli.training.loop import Trainer
from neupol_cli.training.muon import Muon
from neupol_cli.training.optimizers import optimizer_for
from neupol_cli.training.settings import Settings
from tests.training.toy import ToyTask

SETTINGS = Settings(steps=20, lr=0.02, optimizer="muon", weight_decay=0.0, batch_size=6, ema=0.9)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(5, 8)
        self.linear = nn.Linear(8, 16)
        self.row = nn.Linear(16, 1)

    def forward(self) -> Tensor:
        numbers = torch.tensor([0, 3, 4])
        return self.row(torch.tanh(self.linear(self.embedding(numbers)))).square().sum()


def stepped(
    model: Small, optimizer: torch.optim.Optimizer, rate: float = 0.02
) -> dict[str, Tensor]:
    """What a step changed, by name."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.zero_grad()
    model().backward()
    optimizer.step()
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


def test_a_matrix_steps_alike_in_all_directions() -> None:
    model = Small()
    change = stepped(model, optimizer_for(model, SETTINGS))["linear.weight"]
    rank = 3  # of the gradient: three atoms
    sizes = torch.linalg.svdvals(change)[:rank] / (0.02 * 0.2 * math.sqrt(16))
    assert sizes.min() > 0.6 and sizes.max() < 1.3
    assert torch.linalg.svdvals(model.linear.weight.grad)[:rank].div(sizes).max() > 0.01


def test_all_else_steps_as_adamw_does_at_a_tenth_of_the_rate() -> None:
    one, other = Small(), Small()
    found = stepped(one, optimizer_for(one, SETTINGS))
    expected = stepped(other, torch.optim.AdamW(other.parameters(), weight_decay=0.0), 0.002)
    for name in ("embedding.weight", "linear.bias", "row.weight", "row.bias"):
        assert (found[name] - expected[name]).abs().max() < 1e-8
    assert (found["linear.weight"] - expected["linear.weight"]).abs().max() > 1e-4


def test_the_rate_of_a_schedule_reaches_matrices() -> None:
    one, other = Small(), Small()
    slow = stepped(one, optimizer_for(one, SETTINGS), 0.01)["linear.weight"]
    fast = stepped(other, optimizer_for(other, SETTINGS), 0.02)["linear.weight"]
    assert slow.abs().max() > 1e-3 and (fast - 2 * slow).abs().max() < 1e-6


def test_a_rate_that_no_float_holds_is_a_divergence_and_no_fault() -> None:
    model = Small()
    changes = stepped(model, optimizer_for(model, SETTINGS), 1e300)
    assert changes["linear.weight"].abs().max() > 1e28


def test_weights_stay_where_an_accelerator_met_nan() -> None:
    model = Small()
    optimizer = optimizer_for(model, SETTINGS)
    assert isinstance(optimizer, Muon)
    optimizer.found_inf = torch.ones(())
    assert not any(change.any() for change in stepped(model, optimizer).values())
    optimizer.found_inf = torch.zeros(())
    assert all(change.any() for change in stepped(model, optimizer).values())


@pytest.mark.parametrize("at", [1, 7])
def test_it_goes_on_exactly(at: int) -> None:
    whole = Trainer(ToyTask(), SETTINGS)
    for _ in range(12):
        whole.step()
    first = Trainer(ToyTask(), SETTINGS)
    for _ in range(at):
        first.step()
    second = Trainer(ToyTask(), SETTINGS)
    second.restore(first.state())
    for _ in range(12 - at):
        second.step()
    for one, other in zip(whole.parameters, second.parameters, strict=True):
        assert torch.equal(one, other)
    assert any("momentum_buffer" in kept for kept in second.state()["optimizer"].values())
