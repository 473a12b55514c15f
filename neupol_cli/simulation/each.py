"""One structure after another: read, refused or worked on, some at a time, answered in order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from neupol_cli.domain import doubts
from neupol_cli.errors import DivergedError, InputError
from neupol_cli.io import structures
from neupol_cli.io.charges import charged
from neupol_cli.io.structure_formats.frame import Reading
from neupol_cli.models.workers import in_order
from neupol_cli.simulation.potential import Potential

if TYPE_CHECKING:
    from ase import Atoms


class Answer(Protocol):
    """What came of one structure."""

    @property
    def label(self) -> str:
        """What it is called."""

    @property
    def doubts(self) -> tuple[str, ...]:
        """Reasons not to trust it."""


S = TypeVar("S")
A = TypeVar("A", bound=Answer)


@dataclass(frozen=True)
class Handling:
    """What the command line says of structures.

    Attributes:
        reading: of how files are read.
        charge: of all structures; None where files say it.
        on_error: ``fail`` or ``skip``.
        strict: whether a doubt is an error.
    """

    reading: Reading
    charge: int | None
    on_error: str
    strict: bool


def accepted(
    files: Iterable[str], potential: Potential, handling: Handling
) -> Iterator[tuple[str, Atoms]]:
    """Structures that the model can answer for, with their labels.

    Raises:
        InputError: of a bad one, unless these are skipped.
    """
    found = structures.read(
        list(files), handling.on_error, reading=handling.reading, doubts_told=False
    )
    of_charge = charged(found, handling.charge)
    return structures.accepted(of_charge, potential.refusal, handling.on_error)


def answers(work: Callable[[S], A], items: Iterable[S], handling: Handling) -> Iterator[A]:
    """What comes of each item, in order, as soon as it is there; its doubts are said.

    Args:
        work: on one structure.
        items: with what work needs of them.
        handling: the command line's.

    Raises:
        InputError, DivergedError: of a bad structure, unless these are skipped; all are bad.
    """

    def attempted(item: S) -> A | InputError | DivergedError:
        try:
            # What is not finite is refused as soon as the model meets it.
            with np.errstate(over="ignore", invalid="ignore"):
                return work(item)
        except (InputError, DivergedError) as error:
            return error

    good = 0
    for answer in in_order(attempted, items):
        error = answer if isinstance(answer, Exception) else _told(answer, handling.strict)
        if not isinstance(answer, Exception) and error is None:
            good += 1
            yield answer
        elif error is not None and handling.on_error == "fail":
            raise error
        else:
            print(f"neupol: {error} (skipped)", file=sys.stderr)
    if not good:
        raise InputError("no structure was left")


def _told(answer: Answer, strict: bool) -> InputError | None:
    """Says the doubts; the error that they are, if ``strict``."""
    try:
        doubts.told(answer.label, answer.doubts, strict)
    except InputError as error:
        return error
    return None
