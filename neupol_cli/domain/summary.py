"""A domain in a few lines, for people who ask what a model knows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from neupol_cli.targets import target

if TYPE_CHECKING:
    from neupol_cli.models.base import FactsRecord

LONGEST = 12  # kinds of bonds that are listed


def lines(facts: FactsRecord) -> Iterator[str]:
    """What the training structures were like."""
    kinds = {"molecules": facts["molecules"], "crystals": facts["periodic"]}
    sort = " and ".join(kind for kind, there in kinds.items() if there)
    sizes = f"{_range(facts['atoms'])} atoms, {_range(facts['heavy'])} besides hydrogen"
    yield f"trained on {facts['structures']:,} {sort} of {sizes}"
    charges = ", ".join(f"{q:+d}" if q else "0" for q in facts["charges"])
    odd = "odd numbers of electrons, too" if facts["odd"] else "even numbers of electrons only"
    yield f"charge {charges}; {odd}; {_pieces(facts['parts'])}"
    detail = "neighbours by element and coordination" if facts["fine"] else "neighbours by element"
    yield f"{len(facts['surroundings'])} surroundings of atoms ({detail})"
    shown = list(facts["bonds"].items())[:LONGEST]
    bonds = ", ".join(f"{name} {low:.2f} to {high:.2f}" for name, (low, high) in shown)
    more = f" and {len(facts['bonds']) - LONGEST} more" if len(facts["bonds"]) > LONGEST else ""
    yield f"bonds in Angstrom: {bonds}{more}"
    for name, (low, high) in facts["ranges"].items():
        of_atoms = " an atom" if target(name).extensive else ""
        yield f"{name}: {low:.5g} to {high:.5g} {target(name).unit}{of_atoms}"


def _range(ends: list[int]) -> str:
    return f"{ends[0]} to {ends[1]}" if ends[0] < ends[1] else f"{ends[0]}"


def _pieces(parts: int) -> str:
    return "in one piece" if parts == 1 else f"in up to {parts} pieces that no bond joins"
