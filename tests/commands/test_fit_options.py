"""Options of neupol fit that a kind of network does not read: refused by name, when given."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from neupol_cli import app
from neupol_cli.commands.fit import fit
from neupol_cli.errors import UsageError
from neupol_cli.io import hdf5
from neupol_cli.training import fitting, presets

RUN = Path(__file__).parents[1] / "data" / "run-0.1"
DEFAULTS = {name: value.default for name, value in inspect.signature(fit).parameters.items()}
STANDARDS = ["--weight=foo=3", "--references=atoms", "--scale=auto", "--target=nonsense"]


def refusal(capsys: Any, tmp_path: Path, *words: str) -> str:
    """What is said about a command line that is refused before any file is looked at."""
    run = tmp_path / "run"
    assert app._run(["fit", words[0], str(tmp_path / "d.h5"), "-o", str(run), *words[1:]]) == 2
    assert not run.exists()
    return str(capsys.readouterr().err)


@pytest.mark.parametrize("word", [*STANDARDS, "--smoothness=0.5"])
@pytest.mark.parametrize("name", ["egnn-nbody", "egnn-nbody-np"])
def test_dynamics(capsys: Any, tmp_path: Path, name: str, word: str) -> None:
    said = f"neupol: egnn-nbody learns dynamics, which goes without {word.split('=')[0]}\n"
    assert refusal(capsys, tmp_path, name, word) == said


@pytest.mark.parametrize("word", STANDARDS)
@pytest.mark.parametrize("name", ["charge3net", "deepdft-painn"])
def test_densities(capsys: Any, tmp_path: Path, name: str, word: str) -> None:
    said = f"neupol: {name} learns density, which goes without {word.split('=')[0]}\n"
    assert refusal(capsys, tmp_path, name, word) == said


def test_all_of_them_in_one_line(capsys: Any, tmp_path: Path) -> None:
    said = refusal(capsys, tmp_path, "egnn-nbody", *STANDARDS, "--smoothness=0.5")
    assert said.endswith("without --references, --scale, --smoothness, --target, --weight\n")


def test_what_a_network_reads_is_taken() -> None:
    fitting._begun(DEFAULTS | {"model": "charge3net"}, {"model", "smoothness", "loss", "partition"})
    fitting._begun(DEFAULTS | {"model": "egnn-nbody"}, {"model", "limit", "loss", "lr"})
    fitting._begun(
        DEFAULTS | {"model": "egnn"}, {"references", "scale", "smoothness", "target", "weight"}
    )


@pytest.mark.parametrize("name", ["bounded", "tied", "softened"])
def test_a_published_recipe_is_as_published(name: str) -> None:
    assert fitting._begun(DEFAULTS | {"model": "egnn"}, {"model"})[name]
    assert not fitting._begun(DEFAULTS | {"model": "egnn-qm9"}, {"model"})[name]


@pytest.mark.parametrize("words", [[], ["softening=0.25"]])
@pytest.mark.parametrize("softened", [True, False])
def test_earlier_runs_and_published_recipes_are_not_softened(
    words: list[str], softened: bool
) -> None:
    """What is said goes before; else new runs are, and others go on as they began."""
    dataset = hdf5.read(RUN / "ethanol.h5")
    options = DEFAULTS | {"model": "equivariant-transformer", "preset": None, "data": "x"}
    small = ["hidden=8", "layers=1", "heads=2", "encoding_size=4", *words]
    given = {"set_": small, "bounded": True, "softened": softened, "polarization": "movable"}
    task = fitting._task(options | given, dataset)
    assert task.model.config.softening == (0.25 if words else 0.5 if softened else 0.0)


def test_a_preset_may_say_what_its_network_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = {"references": "none", "smoothness": 0.1}
    own = presets.Preset("own", "egnn-nbody", "", "", recipe=recipe)
    monkeypatch.setattr(presets, "presets", lambda: {"own": own})
    chosen = fitting._begun(DEFAULTS | {"model": "own"}, {"model", "steps"})
    assert chosen["references"] == "none" and chosen["scale"] == "auto"
    with pytest.raises(UsageError, match="dynamics, which goes without --references"):
        fitting._begun(DEFAULTS | {"model": "own"}, {"model", "references"})
