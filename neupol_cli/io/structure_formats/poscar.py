"""A check of VASP's POSCAR text before ASE reads it: counts, columns and numbers, with lines.

Format: https://www.vasp.at/wiki/POSCAR. A title, one or three scales, three lattice vectors, names
(from VASP 5 on), counts, perhaps "Selective dynamics", the kind of coordinates, one row an atom.
"""

from __future__ import annotations

from neupol_cli.errors import InputError
from neupol_cli.io.structure_formats import elements
from neupol_cli.io.structure_formats.numerals import cut_short, number, plain


def checked(text: str, name: str, species: tuple[str, ...] = ()) -> str:
    """The text with plain exponents and a line of elements; InputError ``file:line`` where it does
    not add up. ``species`` are the elements of a file that does not name them."""
    rows = plain(text).splitlines()
    _numbers(rows, 1, name, (1, 3))
    for line in (2, 3, 4):
        _numbers(rows, line, name, (3,))
    line = 5
    if _row(rows, line, name)[0].isdecimal():
        rows.insert(line, " ".join(_species(rows, name, species)))
        name = f"{name} (with its elements as line 6)"
    line += 1
    count = _count(rows, line, name)
    line += 1
    if _row(rows, line, name)[0][0] in "sS":
        line += 1
    if _row(rows, line, name)[0][0] not in "dDcCkK":
        raise InputError(f"{name}:{line + 1}: expected Direct or Cartesian")
    first = line + 1
    if len(rows) < first + count:
        present = max(0, len(rows) - first)
        raise InputError(f"{name}:{len(rows)}: ends after {present} of {count} atoms")
    for line in range(first, first + count):
        _numbers([" ".join(rows[line].split()[:3])], 0, name, (3,), line)
    if len(rows) == first + count and not text.endswith("\n"):
        _check_end(rows, first, name)
    _no_more(rows, first + count, count, name)
    return "\n".join(rows) + "\n"


def _species(rows: list[str], name: str, species: tuple[str, ...]) -> list[str]:
    """The elements of a file of VASP 4: as told, else the words of its title if they are such."""
    counts = []
    for word in rows[5].split():
        if not word.isdecimal():
            break
        counts.append(word)
    words = list(species) or rows[0].split()[: len(counts)]
    if len(words) != len(counts) or any(_element(word) is None for word in words):
        said = f"--species names {len(species)}" if species else "name them: --species Si,O"
        raise InputError(f"{name}:6: no elements are named for {len(counts)} counts; {said}")
    return words


def _element(word: str) -> int | None:
    return elements.number_of(word) if word.isalpha() else None


def _row(rows: list[str], line: int, name: str) -> list[str]:
    if line >= len(rows):
        raise InputError(f"{name}:{len(rows)}: the file ends before its atoms")
    words = rows[line].split()
    if not words:
        raise InputError(f"{name}:{line + 1}: the line is blank")
    return words


def _numbers(
    rows: list[str], line: int, name: str, widths: tuple[int, ...], where: int | None = None
) -> None:
    """The row starts with as many finite numbers as one of ``widths``; comments may follow."""
    place = f"{name}:{(line if where is None else where) + 1}"
    words = rows[line].split() if line < len(rows) else []
    count = 0
    for word in words[: max(widths)]:
        try:
            number(word)
        except ValueError as error:
            if count in widths and not str(error).endswith("finite"):
                break
            raise InputError(f"{place}: {error}") from error
        count += 1
    if count not in widths:
        raise InputError(f"{place}: expected {widths[-1]} numbers, found {count}")


def _count(rows: list[str], line: int, name: str) -> int:
    """How many atoms the line of counts declares; it cannot be more than there are lines."""
    count = 0
    for word in _row(rows, line, name):
        if not (word.isascii() and word.isdecimal()):
            break
        count += int(word[:15])
    if count == 0:
        raise InputError(f"{name}:{line + 1}: expected numbers of atoms")
    if count > len(rows):
        raise InputError(f"{name}:{line + 1}: declares {count} atoms in {len(rows)} lines")
    return count


def _check_end(rows: list[str], first: int, name: str) -> None:
    words = [word for row in rows[first:] for word in row.split()[:3]]
    if len(rows[-1].split()) == 3 and cut_short(words):
        raise InputError(f"{name}:{len(rows)}: the file ends within a number ('{words[-1]}')")


def _no_more(rows: list[str], line: int, count: int, name: str) -> None:
    """A row of coordinates right after the last atom means that the counts are wrong.

    Velocities come after a blank line or a word.
    """
    words = rows[line].split() if line < len(rows) else []
    try:
        coordinates = [number(word) for word in words[:3]]
    except ValueError:
        return
    if coordinates:
        raise InputError(f"{name}:{line + 1}: a row beyond the {count} atoms that are declared")
