"""What messages tell people to write has to be there: options are those of the command that ran,
or of one that the message names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

OPTION = re.compile(r"(?<![\w./=-])--[a-z][a-z-]*")
NAMED = re.compile(r"\bneupol ([a-z-]+)(?: ([a-z0-9]+))?")
MESSAGE = re.compile(r"neupol(\[\d+\])?: ")


def unknown(arguments: Sequence[str], told: str) -> Iterator[str]:
    """The options in messages on stderr that nobody could write."""
    from neupol_cli.app import options_of

    for line in told.splitlines():
        if MESSAGE.match(line) and "No such option" not in line:
            named = (options_of(one.groups("")) for one in NAMED.finditer(line))
            known = options_of(arguments).union({"--help"}, _typed(arguments), *named)
            yield from (word for word in OPTION.findall(line) if word not in known)


def _typed(arguments: Iterable[str]) -> set[str]:
    """What the user wrote himself, right or wrong."""
    return {word for one in arguments for word in OPTION.findall(one)}
