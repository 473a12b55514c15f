"""The options of `neupol fit` by name, as plain values: what a run writes down and goes on with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Every option has a type of its own. The command line checks it, and Request and Settings, which
# are filled from here by name, say it again; a mapping of names cannot, hence the Any.
Options = Mapping[str, Any]
ChosenOptions = dict[str, Any]

# What is not spelled as it is called, and what no option stands for.
SPELLED = {"start": "--from", "dtype": "--default-dtype", "model": "MODEL"}
IMPLIED = ("bounded", "tied", "softened", "cut")


def spelled(name: str) -> str:
    """An option as the command line has it."""
    if name in IMPLIED:
        return name
    return SPELLED.get(name, "--" + name.strip("_").replace("_", "-"))
