"""Presets: every word of the file means something, and `fit` does what it says unless told."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from neupol_cli import app, checkpoint, registry
from neupol_cli.commands.fit import fit
from neupol_cli.errors import UsageError
from neupol_cli.models.distance import RadialBasisConfig
from neupol_cli.models.equiformer.radial import LearnedBessel, radial_basis
from neupol_cli.models.nn.graph import Edges
from neupol_cli.training import config_overrides, presets
from neupol_cli.training.optimizers import OPTIMIZERS, SPARED, optimizer_for
from neupol_cli.training.schedule import Progress, Schedule
from neupol_cli.training.settings import Settings

ROOT = Path(__file__).parents[2]
QM9 = ("mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv")
WANTED = """egnn-qm9 egnn-md17 et-qm9 et-md17 equiformer-qm9 dimenet-qm9 transformer-md17 egnn-nbody
egnn-nbody-np charge3net-qm9 charge3net-nmc charge3net-mp deepdft-schnet deepdft-painn
painn-qm9"""


@pytest.mark.parametrize("name", WANTED.split())
def test_every_word_of_a_preset_is_an_option_or_a_setting(name: str) -> None:
    preset = presets.presets()[name]
    options = inspect.signature(fit).parameters
    kind = registry.entry(preset.network).load().Config
    choices = [(preset.settings, preset.recipe), *((c.settings, c.recipe) for c in preset.cases)]
    for chosen, recipe in choices:
        assert set(recipe) <= set(options) - {"set_", "model", "data", "output"}
        found = config_overrides.config_overrides(kind, presets.texts(chosen))
        registry.configure(preset.network, found)
        Schedule(recipe.get("schedule", "constant"), 1.0)
        assert recipe.get("optimizer", "adam") in OPTIMIZERS
        assert recipe.get("decays", "all") in SPARED
        config_overrides.numbers(recipe.get("weight", []), "--weight")
    assert {"batch_size", "lr", "schedule", "loss"} <= set(preset.recipe) and preset.source
    assert sum(limit in preset.recipe for limit in ("epochs", "steps")) == 1


def test_names_are_found_with_their_networks() -> None:
    assert set(presets.presets()) == set(WANTED.split())
    assert {p.network for p in presets.presets().values()} == set(registry.ENTRIES)
    assert presets.chosen("charge3net") is presets.presets()["charge3net-qm9"]
    assert presets.chosen("egnn") is None and presets.chosen("nonsense") is None
    with pytest.raises(UsageError, match=r"charge3net.*et-md17"):
        registry.entry("nonsense")


@pytest.mark.parametrize("name", ["egnn-qm9", "et-qm9", "equiformer-qm9", "dimenet-qm9"])
def test_each_qm9_target_says_how_it_is_standardised(name: str) -> None:
    energies = {"U0", "U", "H", "G"}
    for target in QM9:
        found = presets.presets()[name].options([target])
        if target in energies or found["references"] == "atoms":
            assert found["references"] == "atoms" and target in energies | {"zpve", "Cv"}
        else:
            assert found["references"] == "none"
    assert "references" not in presets.presets()[name].options(QM9)


def test_cases_hold_where_all_targets_are_theirs() -> None:
    equiformer = presets.presets()["equiformer-qm9"]
    energy, both = equiformer.options(["U0", "G"]), equiformer.options(["U0", "mu"])
    assert energy["lr"] == 1.5e-4 and both["lr"] == 5e-4
    assert "encoding=learned-bessel" in energy["set_"] and both["set_"] == []
    assert presets.presets()["egnn-qm9"].options(["gap"])["lr"] == 1e-3


def test_what_is_given_wins() -> None:
    plain = {"model": "et-md17", "lr": 0.5, "batch_size": 96, "set_": ["layers=2"], "weight": []}
    found = presets.applied(plain, {"model", "lr", "set_"}, presets.presets()["et-md17"], [])
    assert (found["model"], found["preset"]) == ("equivariant-transformer", "et-md17")
    assert found["lr"] == 0.5 and found["batch_size"] == 8 and found["patience"] == 300
    assert config_overrides.pairs(found["set_"], "--set")["layers"] == "2"
    assert found["weight"] == ["energy=0.01", "forces=0.8"]
    alone = presets.applied(plain, set(), presets.presets()["et-md17"], ["energy"])
    assert alone["weight"] == ["energy=0.01"]


def neupol(capsys: Any, *words: str | Path) -> tuple[int, str, str]:
    code = app._run([str(word) for word in words])
    found = capsys.readouterr()
    return code, found.out, found.err


def test_fit_takes_network_and_recipe_of_a_preset(capsys, tmp_path: Path) -> None:
    data, run = tmp_path / "ethanol.h5", tmp_path / "run"
    source = ROOT / "tests" / "data" / "ethanol_80.npz"
    assert neupol(capsys, "data", "md17", source, "-o", data, "--partition", "56,12,12")[0] == 0
    small = ["--set", "hidden=16", "--set", "layers=1", "--set", "heads=2", "--batch-size", "4"]
    words = ["fit", "et-md17", data, "-o", run, *small, "--target", "energy,forces", "--steps", "2"]
    code, _, err = neupol(capsys, *words)
    assert code == 0 and "et-md17: " in err
    chosen = json.loads((run / "config.json").read_text())["options"]
    expected = {
        "model": "equivariant-transformer", "preset": "et-md17", "lr": 1e-3, "warmup": 1000,
        "schedule": "plateau:30", "optimizer": "adamw", "loss": "l2", "scale": "std",
        "batch_size": 4, "steps": 2, "epochs": None, "patience": 300,
    }  # fmt: skip
    assert {key: chosen[key] for key in expected} == expected
    meta, tensors = checkpoint.load_file(run / "best.safetensors")
    assert meta["config"]["encoding_size"] == 32 and meta["config"]["layers"] == 1
    energies = np.load(source)["energies"]
    assert 0.1 < float(tensors["scale"][0]) / (energies.std() * 0.0433641153087705) < 10
    assert neupol(capsys, "fit", "et-md17", "-o", run, "--resume", "--steps", "4")[0] == 0
    assert neupol(capsys, "fit", "et-qm9", "-o", run, "--resume")[0] == 2


def test_models_lists_and_describes_presets(capsys) -> None:
    listed = neupol(capsys, "models")[1]
    assert all(name in listed for name in WANTED.split())
    described = neupol(capsys, "models", "et-md17")[1]
    for line in ("--batch-size 8", "--schedule plateau:30", "--set hidden=128", "  heads = 8"):
        assert line in described
    plain = json.loads(neupol(capsys, "models", "equiformer-qm9", "--json")[1])
    assert plain["network"] == "equiformer" and plain["recipe"]["decays"] == "matrices"
    assert json.loads(neupol(capsys, "models", "--json")[1])["presets"].keys() == set(
        WANTED.split()
    )
    assert "presets: et-qm9, et-md17" in neupol(capsys, "models", "equivariant-transformer")[1]


def test_decay_spares_biases_norms_embeddings_and_encodings() -> None:
    config = {"layers": 2, "irreps": "8x0e+4x1e", "head_irreps": "4x0e+2x1e", "feature": 8}
    config |= {"mlp_irreps": "8x0e+4x1e", "encoding_size": 4}
    model = registry.build("equiformer", config)
    adamw = Settings(optimizer="adamw", weight_decay=5e-3, decays="matrices")
    optimizer = optimizer_for(model, adamw)
    names = {p: name for name, p in model.named_parameters()}
    decays, spared = ({names[p] for p in g["params"]} for g in optimizer.param_groups)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [5e-3, 0.0]
    assert decays | spared == set(names.values()) and not decays & spared
    rest = {name for name in names.values() if not name.endswith("bias")}
    inner = ("hidden.1.weight", "hidden.4.weight")  # layer norms of the radial networks
    norms = {name for name in rest if ".norm" in name or name.endswith(inner)}
    assert spared & rest == norms | {name for name in rest if ".geometry.basis." in name}
    assert "backbone.layers.0.attention.values.path_weights" in decays
    table = registry.build("equivariant-transformer", {"hidden": 16, "layers": 1, "heads": 2})
    _, free = optimizer_for(table, adamw).param_groups
    assert any(p is table.backbone.embedding.weight for p in free["params"])
    for wrong in (Settings(optimizer="sgd"), Settings(decays="some")):
        with pytest.raises(UsageError, match="is one of"):
            optimizer_for(nn.Linear(2, 2), wrong)


def at(step: int, fraction: float) -> Progress:
    return Progress(step, fraction)


def test_schedules_of_the_published_recipes() -> None:
    waves = Schedule("waves:3", 2.0)
    rates = [waves.rate(at(0, part)) for part in (0, 1 / 6, 1 / 3, 2 / 3, 1)]
    assert rates == pytest.approx([2, 1, 0, 2, 0], rel=0, abs=1e-12)
    plateau = Schedule("plateau:0,0.1", 1e-3)
    for _ in range(4):
        plateau.observe(1.0)
    assert plateau.rate(at(0, 0.0)) == pytest.approx(1e-6)
    for _ in range(9):
        plateau.observe(1.0)
    assert plateau.rate(at(0, 0.0)) == pytest.approx(1e-7)  # and no lower
    for wrong in ("plateau:1,2", "plateau:1,x", "cosine:0.1,0.2"):
        with pytest.raises(UsageError):
            Schedule(wrong, 1.0)
    dimenet = Schedule("exponential:35457.5", 1.0).rate(at(4_000_000, 0.0))
    assert dimenet == pytest.approx(0.01, rel=1e-4)


def test_equiformers_bessel_functions() -> None:
    basis = radial_basis("learned-bessel", RadialBasisConfig(3, 5.0)).double()
    assert isinstance(basis, LearnedBessel)
    lengths = torch.tensor([0.4, 2.0, 4.9, 5.0, 6.0], dtype=torch.float64)
    vectors = torch.zeros(5, 3, dtype=torch.float64)
    vectors[:, 0] = lengths
    edges = Edges(torch.zeros(5).long(), torch.zeros(5).long(), vectors)
    x = (lengths / 5)[:, None]
    envelope = 1 - 21 * x**5 + 35 * x**6 - 15 * x**7
    expected = envelope * (2 / 125) ** 0.5 * torch.sin(basis.frequencies * x) / x
    torch.testing.assert_close(basis(edges)[:3], expected[:3], rtol=0, atol=1e-13)
    assert not basis(edges)[3:].any()


def test_options_of_fit_reach_the_settings() -> None:
    names = {field.name for field in dataclasses.fields(Settings)}
    assert {"decays", "optimizer", "clip", "ema"} <= names & set(inspect.signature(fit).parameters)
