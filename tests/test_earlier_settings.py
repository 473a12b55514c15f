"""Settings under the names that earlier versions gave them: checkpoints, cards and runs of then."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from neupol_cli import checkpoint, earlier_settings, registry
from neupol_cli.models.charge3net.config import ChargE3NetConfig
from neupol_cli.training.config_overrides import config_overrides

SMALL = {"mul": 8, "lmax": 1, "layers": 1, "hidden": 4}


@pytest.mark.parametrize(
    ("name", "sizes"), [("charge3net", SMALL), ("deepdft-painn", {"hidden": 8, "layers": 1})]
)
def test_a_checkpoint_that_says_focus_is_read(tmp_path: Path, name: str, sizes: dict) -> None:
    network = registry.build(name, sizes | {"sampling_exponent": 0.25})
    config = dataclasses.asdict(network.config)
    config["focus"] = config.pop("sampling_exponent")
    path = tmp_path / "old.safetensors"
    header = {"model": name, "config": config, "targets": {"density": "e/Angstrom^3"}}
    checkpoint.write(path, "weights", header, network.state_dict())
    loaded = registry.load(str(path))
    assert loaded.config == network.config
    assert all(map(torch.equal, loaded.parameters(), network.parameters()))


def test_the_bundled_density_was_stored_under_the_old_name() -> None:
    stored, _ = checkpoint.load_file(registry.bundled()["density"])
    assert stored["config"]["focus"] == 0.5
    assert registry.bundled_header("density")["config"]["sampling_exponent"] == 0.5
    assert registry.load("density").config.sampling_exponent == 0.5


def test_options_of_an_earlier_run_are_read() -> None:
    """A resumed run reads the options that it was begun with."""
    expected = {"sampling_exponent": 0.5, "probes": 60}
    assert config_overrides(ChargE3NetConfig, ["focus=0.5", "probes=60"]) == expected
    assert config_overrides(ChargE3NetConfig, ["focus=0"]) == {"sampling_exponent": 0.0}


def test_every_old_name_is_one_that_nobody_has() -> None:
    for name in registry.ENTRIES:
        known = set(registry.defaults(name))
        assert not known & set(earlier_settings.RENAMED)
    assert set(earlier_settings.RENAMED.values()) <= set(registry.defaults("charge3net"))
