"""Published networks with the recipes they were trained by, under one name each.

What they are stands in presets.toml, as data; here it is read and made into options of `fit`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from neupol_cli.training.options import ChosenOptions, Options

# Options that a user's words are added to, behind the preset's own, which they win over.
ADDED = ("set_", "weight")


@dataclass(frozen=True)
class Case:
    """What else holds where every target is among ``targets``."""

    targets: tuple[str, ...]
    settings: Mapping[str, object]
    recipe: Options


@dataclass(frozen=True)
class Preset:
    """A network's settings and its training, as published.

    Attributes:
        name: what `neupol fit` takes.
        network: its name in the registry.
        settings: fields of the network's Config that differ from its defaults.
        recipe: options of `neupol fit`.
        cases: more of both for certain targets; later ones win.
        note: what is not as published.
        default: whether the network's own name stands for this preset too.
    """

    name: str
    network: str
    summary: str
    source: str
    settings: Mapping[str, object] = field(default_factory=dict)
    recipe: Options = field(default_factory=dict)
    cases: tuple[Case, ...] = ()
    note: str = ""
    default: bool = False

    def options(self, targets: Sequence[str]) -> ChosenOptions:
        """The options of `fit` that this preset stands for, when these targets are learnt."""
        settings, recipe = dict(self.settings), dict(self.recipe)
        for case in self.cases:
            if targets and set(targets) <= set(case.targets):
                settings |= case.settings
                recipe |= case.recipe
        if targets and "weight" in recipe:
            recipe["weight"] = [w for w in recipe["weight"] if w.split("=")[0] in targets]
        return recipe | {"set_": texts(settings)}


def texts(settings: Mapping[str, object]) -> list[str]:
    """Settings as a user writes them behind ``--set``."""
    return [f"{key}={value}" for key, value in settings.items()]


@cache
def presets() -> dict[str, Preset]:
    """Every preset by its name."""
    import tomllib

    text = resources.files(__package__).joinpath("presets.toml").read_text(encoding="utf-8")
    return {name: _preset(name, table) for name, table in tomllib.loads(text).items()}


def _preset(name: str, table: ChosenOptions) -> Preset:
    cases = tuple(
        Case(tuple(case["targets"]), case.get("settings", {}), case.get("recipe", {}))
        for case in table.pop("cases", [])
    )
    return Preset(name, cases=cases, **table)


def chosen(name: str) -> Preset | None:
    """The preset of that name, or the one that a network's own name stands for, or None."""
    if name in presets():
        return presets()[name]
    fitting = (preset for preset in presets().values() if preset.default and preset.network == name)
    return next(fitting, None)


def applied(
    options: Options, given: Iterable[str], preset: Preset, targets: Sequence[str]
) -> ChosenOptions:
    """Options with a preset's under those that were given.

    Args:
        options: every option of `fit`, defaults included.
        given: which of them stood on the command line.
        preset: whose settings and recipe are taken.
        targets: the labels that were asked for; empty for the preset's own.
    """
    recipe = preset.options(targets or preset.recipe.get("target", ()))
    own = {key: value for key, value in recipe.items() if key in ADDED or key not in given}
    added = {key: [*own[key], *options[key]] for key in ADDED if key in own}
    return {**options, **own, **added, "model": preset.network, "preset": preset.name}
