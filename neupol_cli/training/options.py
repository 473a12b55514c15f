"""The options of `neupol fit` by name, as plain values: what a run writes down and goes on with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Every option has a type of its own. The command line checks it, and Request and Settings, which
# are filled from here by name, say it again; a mapping of names cannot, hence the Any.
Options = Mapping[str, Any]
ChosenOptions = dict[str, Any]
