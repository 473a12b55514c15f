"""A report on movable points as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from neupol_cli.trajectory.measures import BondMeasures, Means, Report

if TYPE_CHECKING:
    from rich.table import Table

# key of a row -> heading with its unit, digits behind the point
COLUMNS: dict[str, tuple[str, int]] = {
    "displacement": ("moved (Å)", 4),
    "of_half_bond": ("of half bond", 3),
    "bond_angle": ("to bond (°)", 1),
    "outward": ("outward (Å)", 4),
    "out_of_plane": ("out of plane (Å)", 4),
    "plane_angle": ("to plane (°)", 1),
}
ENDS: dict[str, tuple[str, int]] = {"along": ("along bond (Å)", 4), "of_bond": ("of bond", 4)}


def tables(report: Report) -> Iterator[Table]:
    """One of the atoms, one of the elements, one of the kinds of bonds."""
    yield _atoms(report)
    yield _groups("element", report["by_element"], "atoms", COLUMNS)
    if report["by_bond"]:
        yield _groups("bond", report["by_bond"], "ends", ENDS)


def _atoms(report: Report) -> Table:
    from rich.table import Table

    shares = [
        f"mean {report['mean_displacement']:.4f} Å",
        *_percentage(report["within_half_bond"], "within half a bond"),
        *_percentage(report["moved_outward"], "outward"),
    ]
    model = f"{report['model']} ({', '.join(report['targets'])})"
    title = f"{report['file']}, {model}: x~_0 to x~_{report['layers'] - 1}; {', '.join(shares)}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    _heads(table, ["atom", *(head for head, _ in COLUMNS.values())])
    for row in report["atoms"]:
        cells = _cells(row, COLUMNS)
        table.add_row(f"{row['element']}{row['atom'] + 1}", *cells)
    return table


def _percentage(value: float | None, text: str) -> list[str]:
    return [] if value is None else [f"{100 * value:.0f} % {text}"]


def _groups(
    name: str,
    groups: Mapping[str, Means] | Mapping[str, BondMeasures],
    count: str,
    columns: Mapping[str, tuple[str, int]],
) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    _heads(table, [f"mean by {name}", count, *(head for head, _ in columns.values())])
    for key, row in groups.items():
        values: Mapping[str, object] = row
        table.add_row(key, str(values[count]), *_cells(values, columns))
    return table


def _heads(table: Table, heads: list[str]) -> None:
    for k, head in enumerate(heads):
        table.add_column(head, justify="right" if k else "left")


def _cells(row: Mapping[str, object], columns: Mapping[str, tuple[str, int]]) -> list[str]:
    """A row's numbers; empty where there is none."""
    values = ((row[key], digits) for key, (_, digits) in columns.items())
    return ["" if value is None else f"{value:.{digits}f}" for value, digits in values]
