"""Every setting of every network can be written behind ``--set`` on a command line."""

from __future__ import annotations

import typing

import pytest

from neupol_cli import registry
from neupol_cli.errors import UsageError
from neupol_cli.training.config_overrides import DERIVED, config_overrides

# The settings of each network that are one of several words.
SETTINGS = [
    (name, key, hint)
    for name in registry.ENTRIES
    for key, hint in typing.get_type_hints(registry.entry(name).load().Config).items()
    if key not in DERIVED
]
WORDS = [one for one in SETTINGS if typing.get_origin(one[2]) is typing.Literal]


def written(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("name", registry.ENTRIES)
def test_the_default_of_every_setting_is_read_as_it_is(name: str) -> None:
    config = registry.entry(name).load().Config
    plain = {key: value for key, value in registry.defaults(name).items() if key not in DERIVED}
    texts = [f"{key}={written(value)}" for key, value in plain.items()]
    found = config_overrides(config, texts)
    assert {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()} == plain


def test_every_word_of_a_choice_is_read_and_no_other() -> None:
    assert {key for _, key, _ in WORDS} >= {"table_start", "interpolation"}
    for name, key, hint in WORDS:
        config = registry.entry(name).load().Config
        for word in typing.get_args(hint):
            assert config_overrides(config, [f"{key}={word}"]) == {key: word}
        with pytest.raises(UsageError, match=f"--set {key}=flat: it is 'flat', not '"):
            config_overrides(config, [f"{key}=flat"])
