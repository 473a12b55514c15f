"""The types of networks' settings, with the ranges outside which none of them means a network.

A configuration's fields are annotated with these; ``neupol_cli/validation.py`` holds values to
them, wherever they come from: a command line, a run folder, a checkpoint. The upper ends are many
times what anybody published, and small enough that no single tensor fills a memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """A number from ``low`` to ``high``, both included; what is no number (NaN) is outside."""

    low: float
    high: float

    def refusal(self, value: float) -> str:
        """What a value outside should be; empty for one inside."""
        inside = self.low <= value <= self.high
        return "" if inside else f"a number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Count:
    """A list of ``low`` to ``high`` items, no two of them equal where they are ``distinct``."""

    low: int
    high: int
    distinct: bool = False

    def refusal(self, value: Sequence[object]) -> str:
        """What another list should be; empty for such a one."""
        if not self.low <= len(value) <= self.high:
            return f"a list of {self.low} to {self.high}"
        repeats = self.distinct and len(set(value)) < len(value)
        return "a list without repeats" if repeats else ""


@dataclass(frozen=True)
class Text:
    """``least`` to 200 characters that can be printed: they become headings and keys of files."""

    least: int = 0

    def refusal(self, value: str) -> str:
        """What another text should be; empty for such a one."""
        fits = self.least <= len(value) <= 200 and value.isprintable()
        return "" if fits else f"{self.least} to 200 printable characters"


Width = Annotated[int, Range(1, 4096)]  # features of a point, or of a layer in between
Depth = Annotated[int, Range(1, 64)]  # layers
FewLayers = Annotated[int, Range(0, 16)]
Heads = Annotated[int, Range(1, 256)]
Degree = Annotated[int, Range(0, 11)]  # l: as far as e3nn has 3j symbols
Resolution = Annotated[int, Range(1, 1024)]  # functions of a distance
Bins = Annotated[int, Range(2, 4096)]  # nodes of a learned table
Distance = Annotated[float, Range(0.1, 100)]  # Angstrom
Softening = Annotated[float, Range(0, 1)]  # Angstrom; atoms are never as close
Scale = Annotated[float, Range(0.001, 1e6)]  # what something is divided by
Fraction = Annotated[float, Range(0, 1)]
Exponent = Annotated[float, Range(0, 10)]
Probes = Annotated[int, Range(1, 10_000_000)]
AtomicNumber = Annotated[int, Range(0, 118)]  # published networks have a place for 0, too
Species = Annotated[tuple[AtomicNumber, ...], Count(1, 119, distinct=True)]
Name = Annotated[str, Text(1)]
Unit = Annotated[str, Text()]
Names = Annotated[tuple[Name, ...], Count(1, 256, distinct=True)]
