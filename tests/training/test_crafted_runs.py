"""Run folders whose config.json somebody changed: refused in one line, or a run that goes on."""

from __future__ import annotations

import copy
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from neupol_cli.distributed.process_group import ALONE
from neupol_cli.errors import InputError, NeupolError
from neupol_cli.io import hdf5
from neupol_cli.training import fitting
from neupol_cli.training.loop import Trainer
from neupol_cli.training.run import Folder
from tests.test_crafted_checkpoints import EVIL

RUN = Path(__file__).parents[1] / "data" / "run-0.1"
TEXTS = (
    "", "[]", "null", "{}", "x", '"options"', "[" * 5000, '{"options":' * 3000, "{" + "}" * 9,
    '{"options": []}', '{"options": {}, "fingerprint": 1}', '{"options": {}, "fingerprint": ""}',
    '{"options": {"lr": 1' + "0" * 5000 + "}}", "\x00",
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset() -> hdf5.Dataset:
    return hdf5.read(RUN / "ethanol.h5")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    shutil.copy(RUN / "config.json", tmp_path)
    return Folder(tmp_path)


def gone_on(folder: Folder, dataset: hdf5.Dataset) -> None:
    """All that ``fit --resume`` does with the configuration before it trains."""
    earlier = folder.read_config()
    chosen = fitting._continued(earlier["options"], earlier["options"], set())
    fitting._same_data(earlier, dataset)
    Trainer(fitting._task(chosen, dataset), fitting._settings(chosen), ALONE)


def test_it_goes_on_as_it_is(folder: Folder, dataset: hdf5.Dataset) -> None:
    gone_on(folder, dataset)


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_what_is_no_configuration_is_refused(folder: Folder, text: str) -> None:
    folder["config.json"].write_text(text)
    with pytest.raises(InputError, match=r"config\.json: ") as caught:
        folder.read_config()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("option", json.loads((RUN / "config.json").read_text())["options"])
def test_a_missing_option_is_named(folder: Folder, option: str) -> None:
    if option == "preset":  # which runs before presets lack
        return
    config = json.loads(folder["config.json"].read_text())
    del config["options"][option]
    folder["config.json"].write_text(json.dumps(config))
    name = "partition" if option == "split" else option
    with pytest.raises(InputError, match=f"options lacks {name}"):
        folder.read_config()


def test_crafted_options_are_refused_or_go_on(folder: Folder, dataset: hdf5.Dataset) -> None:
    whole: dict[str, Any] = json.loads(folder["config.json"].read_text())
    draw, refused = random.Random(13), 0
    for _ in range(100):
        config = copy.deepcopy(whole)
        target = config["options"] if draw.random() < 0.9 else config
        name, value = draw.choice(sorted(target)), draw.choice(EVIL)
        target[name] = value
        folder["config.json"].write_text(json.dumps(config) if value != 10**400 else "1" * 400)
        try:
            gone_on(folder, dataset)
        except NeupolError as error:
            refused += 1
            assert "\n" not in str(error)
        except Exception as error:
            raise AssertionError(f"{name} = {value!r:.40}: {error!r}") from error
    assert refused > 60
