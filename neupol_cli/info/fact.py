"""One thing that is known of an installation, for programs and for people."""

from __future__ import annotations

from typing import NamedTuple


class Fact(NamedTuple):
    """
    Attributes:
        record: for JSON.
        text: the same in a line or several.
    """

    record: object
    text: str
