"""XCrySDen's XSF: a structure, and a data grid that runs from its first to its last point.

    BEGIN_BLOCK_DATAGRID_3D, a name
    BEGIN_DATAGRID_3D_name, three counts, the origin, three spanning vectors, the values
    END_DATAGRID_3D, END_BLOCK_DATAGRID_3D

Along a period of the structure the last plane is the first one again. Lengths are Angstrom, the
first index is the fastest. The format names no unit: neupol writes e/Angstrom^3 and says so in a
comment (``# values in e/Angstrom^3``), which counts in others' files, too; else it is told from
the electrons that the atoms can have, and from programs whose files are known to be in e/bohr^3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
from ase import Atoms

from neupol_cli import provenance
from neupol_cli.errors import InputError
from neupol_cli.io import units
from neupol_cli.io.structure_formats import xsf
from neupol_cli.io.structure_formats.frame import Rows
from neupol_cli.io.volumetric import coverage, guesses, periodicity, plausible
from neupol_cli.io.volumetric.format import VolumetricFormat
from neupol_cli.io.volumetric.grid import DENSITY, Grid, Volume
from neupol_cli.io.volumetric.text import Lines

NAMES = ["density", "spin"]  # of our own two grids
ATOMIC = "e/bohr^3"
# By the names of blocks and grids: whose densities are in e/bohr^3. SIESTA's are, too, but its
# rho2xsf calls any structure a molecule: of it the electrons have to speak.
PROGRAMS = {
    "Quantum ESPRESSO": re.compile(r"3D_PWSCF\b"),
    "ABINIT": re.compile(r"datagrids DENSITY\b"),
    "cube2xsf": re.compile(r"G98CUBE\b"),
}
NEAR = 1e-3  # Angstrom; between a vector and a period of the structure
EQUAL = 1e-4, 1e-8  # of a value, and of the largest: between the first plane and its repetition
_UNIT = re.compile(r"#\s*values in (\S+?)(?:,|\s|\Z)")
_OCTOPUS = re.compile(r"units:.*\bfunction\s*=\s*(\S+)")
_OCTOPUS_UNITS = {"A^-3": DENSITY, "b^-3": ATOMIC}
_GRID = re.compile(r"\s*(?:BEGIN_)?DATAGRID_?3D_?(\S*)", re.I)
_END = re.compile(r"\s*END_DATAGRID_?3D", re.I)
_END_BLOCK = re.compile(r"\s*END_BLOCK_DATAGRID_?[23]D", re.I)


@dataclass(frozen=True)
class DataGrid:
    """A grid as it stands in a file: what it is called, its points, values (n1,n2,n3)."""

    name: str
    grid: Grid
    values: np.ndarray


def read(stream: BinaryIO, name: str, size: int | None = None) -> Volume:
    """A density from an XSF.

    Args:
        stream: the file's bytes.
        name: of the file, for messages.
        size: its bytes, if known.

    Returns:
        The density, e/Angstrom^3, with spin where neupol wrote it.

    Raises:
        InputError: (file:line) the file is not exactly one density, or nothing tells its unit.
    """
    lines = Lines(stream, name, size)
    head = _head(lines)
    atoms = _atoms(lines, head)
    block = _next(lines, "the name of the block of grids")
    xsf.check_unit(block, f"{name}:{lines.number}")
    grids = _grids(lines, atoms)
    _finish(lines)
    total, *others = grids
    if others and [grid.name for grid in grids] != NAMES:
        lines.wrong(f"{len(grids)} data grids ({_names(grids)}): leave that of the density alone")
    comments = [row.strip() for row in head if row.lstrip().startswith("#")]
    titles = " ".join([*comments, block, _names(grids)]).replace("_", " ")
    notes = {"title": block.strip(), "titles": titles}
    volume = Volume(atoms, total.grid, total.values, others[0].values if others else None, notes)
    return _converted(lines, volume, comments, f"{block.strip()} {total.name}")


def _names(grids: list[DataGrid]) -> str:
    return ", ".join(grid.name or "unnamed" for grid in grids)


def _next(lines: Lines, what: str) -> str:
    """The next line that is neither blank nor a comment; its words tell whether it was cut."""
    while (text := lines.next_filled(ended=False)) is not None:
        if not text.lstrip().startswith("#"):
            return text
    lines.wrong(f"the file ends where {what} should be (truncated?)", lines.number + 1)


def _head(lines: Lines) -> list[str]:
    """The rows before the first grid of three dimensions."""
    head: list[str] = []
    while (text := lines.next_filled()) is not None:
        head += [""] * (lines.number - 1 - len(head))
        if xsf.BLOCK.match(text):
            if _is_3d(lines, text):
                return head
            text = ""
        head.append(text)
    raise InputError(f"{lines.name}: no data grid (BEGIN_BLOCK_DATAGRID_3D): holds no density")


def _is_3d(lines: Lines, text: str) -> bool:
    """Whether a block holds grids of three dimensions; one of planes is read past."""
    kind = text.strip().upper().removeprefix("BEGIN_BLOCK_")
    if kind in ("DATAGRID_3D", "DATAGRID3D"):
        return True
    if kind not in ("DATAGRID_2D", "DATAGRID2D"):
        lines.wrong(f"a block of {kind[:40]} holds no density")
    while not _END_BLOCK.match(_next(lines, "END_BLOCK_DATAGRID_2D")):
        pass
    return False


def _atoms(lines: Lines, head: list[str]) -> Atoms:
    found = xsf.structures(Rows("\n".join(head), lines.name))
    if len(found) > 1:
        raise InputError(f"{lines.name}: {len(found)} structures (ANIMSTEPS), not one of a density")
    atoms = found[0].atoms
    assert atoms is not None
    atoms.calc = None
    return atoms


def _grids(lines: Lines, atoms: Atoms) -> list[DataGrid]:
    """Every grid of a block; there is one at least."""
    grids: list[DataGrid] = []
    while not _END_BLOCK.match(text := _next(lines, "END_BLOCK_DATAGRID_3D")):
        match = _GRID.match(text)
        if match is None:
            lines.wrong(f"expected BEGIN_DATAGRID_3D or the block's end, found '{text[:40]}'")
        grids.append(_grid(lines, match[1], atoms))
    if not grids:
        lines.wrong("a block without a data grid")
    return grids


def _grid(lines: Lines, name: str, atoms: Atoms) -> DataGrid:
    counts = lines.fields("the counts of a data grid", "iii")
    if min(counts) < 2:
        lines.wrong(f"counts {counts}: a grid from a first to a last point has two at least")
    origin = lines.fields("the origin", "fff")
    span = np.array([lines.fields("a spanning vector", "fff") for _ in range(3)])
    first = lines.number
    values = _values(lines, counts)
    for axis in np.flatnonzero(_periods(span, atoms)):
        values = _once(lines, values, int(axis), first)
    try:
        grid = Grid(np.array(origin), span / (np.array(counts)[:, None] - 1), values.shape)
    except InputError as error:
        raise InputError(f"{lines.name}:{first}: {error}") from error
    reason = _misfit(grid, atoms)
    if reason is not None:
        lines.wrong(reason, first)
    return DataGrid(name, grid, np.ascontiguousarray(values))


def _values(lines: Lines, counts: list[int]) -> np.ndarray:
    """(n1,n2,n3), of which the file's first index is the fastest."""
    values = lines.numbers(counts[0] * counts[1] * counts[2], "values")
    if not _END.match(text := _next(lines, "END_DATAGRID_3D")):
        lines.wrong(f"expected END_DATAGRID_3D, found '{text.strip()[:40]}'")
    return values.reshape(counts[::-1]).T


def _periods(vectors: np.ndarray, atoms: Atoms) -> np.ndarray:
    """(3,) which of the vectors (3,3) are sums of those along which the structure repeats."""
    periodic = np.asarray(atoms.cell.array)[atoms.pbc]  # (k,3)
    counts = np.round(vectors @ np.linalg.pinv(periodic))  # (3,k)
    return np.asarray(
        (np.abs(vectors - counts @ periodic).max(axis=1) < NEAR) & counts.any(axis=1), dtype=bool
    )


def _once(lines: Lines, values: np.ndarray, axis: int, line: int) -> np.ndarray:
    """The values without their last plane, which has to be the first one."""
    first, last = values.take(0, axis), values.take(-1, axis)
    relative, absolute = EQUAL
    if not np.allclose(first, last, rtol=relative, atol=absolute * float(np.abs(values).max())):
        lines.wrong(
            f"the grid's vector {axis + 1} is a whole period, and its last plane is not the first "
            "one again, as it must be",
            line,
        )
    return values[tuple(slice(-1) if k == axis else slice(None) for k in range(3))]


def _misfit(grid: Grid, atoms: Atoms) -> str | None:
    """Why a grid is neither the cell of its structure nor a part of it; None where it is."""
    periodic = np.asarray(atoms.cell.array)[atoms.pbc]  # (k,3)
    whole = _periods(grid.box, atoms)
    if whole.sum() == len(periodic):
        counts = np.round(grid.box[whole] @ np.linalg.pinv(periodic))  # (k,k)
        cells = round(abs(float(np.linalg.det(counts))))
        return None if cells == 1 else f"the grid spans {cells} cells (PRIMVEC), not one"
    if len(periodic) < 3:
        return "the grid does not span the periods of the structure"
    share = grid.size * grid.element / abs(float(np.linalg.det(periodic)))
    return None if share < 1.0 else "the grid is neither the cell (PRIMVEC) nor a part of it"


def _finish(lines: Lines) -> None:
    """Nothing but grids of planes may follow."""
    while (text := lines.next_filled()) is not None:
        if xsf.BLOCK.match(text) and not _is_3d(lines, text):
            continue
        if not text.lstrip().startswith("#"):
            lines.wrong(f"the file should end here, found '{text.strip()[:40]}'")


def _converted(lines: Lines, volume: Volume, comments: list[str], called: str) -> Volume:
    """The volume in e/Angstrom^3, with a note where the file does not say its unit."""
    unit, notes = _stated(lines, comments, called), volume.notes
    if unit is None:
        unit, reason = _told(lines, volume, called)
        other = DENSITY if unit == ATOMIC else ATOMIC
        taken = f"values taken for {unit} ({reason}); a line '# values in {other}' says otherwise"
        notes = notes | {guesses.UNIT: taken}
    factor = units.factor(unit, DENSITY)
    spin = None if volume.spin is None else volume.spin * factor
    return replace(volume, values=volume.values * factor, spin=spin, notes=notes)


def _stated(lines: Lines, comments: list[str], called: str) -> str | None:
    """The unit that a comment names, or the block that Octopus wrote."""
    said = next(filter(None, map(_UNIT.match, comments)), None)
    octopus = _OCTOPUS.search(called)
    if said is None and octopus is None:
        return None
    unit = said[1] if said else _OCTOPUS_UNITS.get(octopus[1], octopus[1]) if octopus else ""
    try:
        units.factor(unit, DENSITY)
    except InputError:
        raise InputError(f"{lines.name}: its values are in {unit}: it holds no density") from None
    return unit


def _told(lines: Lines, volume: Volume, called: str) -> tuple[str, str]:
    """The unit in which the atoms can have the electrons of the grid, and how it is told."""
    low, high = plausible.possible_electrons(volume.atoms.numbers)
    low = low if coverage.fills_cell(volume.grid, volume.atoms) else 0.0
    sums = {unit: volume.electrons * units.factor(unit, DENSITY) for unit in (DENSITY, ATOMIC)}
    possible = [unit for unit, electrons in sums.items() if low <= electrons <= high]
    program = next((name for name, known in PROGRAMS.items() if known.search(called)), None)
    if program and (ATOMIC in possible or not possible):
        return ATOMIC, f"as {program} writes them"
    if len(possible) == 1 and not program:
        return possible[0], "by the electrons that its atoms have"
    counts = ", ".join(f"{electrons:.4g} in {unit}" for unit, electrons in sums.items())
    raise InputError(
        f"{lines.name}: nothing tells the unit of its values ({counts} electrons); put a line "
        f"'# values in {ATOMIC}' or '# values in {DENSITY}' on top of it"
    )


def write(stream: BinaryIO, volume: Volume, title: str) -> None:
    """The total density, then the spin density where there is one, as two data grids.

    A direction along which the grid is a whole period gets one point more, its first one again; the
    others do not.
    """
    atoms, said = volume.atoms, f"# values in {volume.unit}, lengths in Angstrom"
    if atoms.pbc.any():
        said += ", pbc " + " ".join("T" if flag else "F" for flag in atoms.pbc)
    origin = [f"# {line}" for line in provenance.marked()]
    head = [f"# {' '.join(title.split())}", said, *origin, *_cell_rows(volume)]
    head += [f"{n:3d} {_row(r)}" for n, r in zip(atoms.numbers, atoms.positions, strict=True)]
    head += ["BEGIN_BLOCK_DATAGRID_3D", "electron_density"]
    stream.write(("\n".join(head) + "\n").encode())
    for name, values in zip(NAMES, (volume.values, volume.spin), strict=True):
        if values is not None:
            _write_grid(stream, volume, values, name)
    stream.write(b"END_BLOCK_DATAGRID_3D\n")


def _cell_rows(volume: Volume) -> list[str]:
    """What stands before the atoms."""
    atoms = volume.atoms
    if not atoms.pbc.any():
        return ["ATOMS"]
    # XCrySDen knows slabs and wires only along the first axes; anything else is a crystal.
    kinds = {(True, True, False): "SLAB", (True, False, False): "POLYMER"}
    cell = np.asarray(atoms.cell.array)
    given = np.linalg.norm(cell, axis=1)[:, None] > 0.0
    vectors = [_row(row) for row in np.where(given, cell, volume.grid.box)]
    kind = kinds.get(tuple(atoms.pbc.tolist()), "CRYSTAL")
    return [kind, "PRIMVEC", *vectors, "PRIMCOORD", f"{len(atoms)} 1"]


def _write_grid(stream: BinaryIO, volume: Volume, values: np.ndarray, name: str) -> None:
    grid = volume.grid
    counts = np.array(grid.shape) + _periods(grid.box, volume.atoms)
    span = grid.step * (counts - 1)[:, None]
    head = [f"BEGIN_DATAGRID_3D_{name}", " ".join(str(n) for n in counts), _row(grid.origin)]
    head += [_row(row) for row in span]
    stream.write(("\n".join(head) + "\n").encode())
    indices = [np.arange(n) % size for n, size in zip(counts, grid.shape, strict=True)]
    pattern = (" %14.7E" * 6 + "\n") * (counts[0] // 6)
    pattern += " %14.7E" * (counts[0] % 6) + ("\n" if counts[0] % 6 else "")
    for k in indices[2]:  # first index fastest: one plane of the last index at a time
        plane = values[:, :, k].astype(np.float64)[np.ix_(indices[0], indices[1])]
        stream.write("".join(pattern % tuple(row) for row in plane.T.tolist()).encode())
    stream.write(b"END_DATAGRID_3D\n")


def _row(vector: np.ndarray) -> str:
    return " ".join(f"{x:18.12f}" for x in vector)


def _refusal(volume: Volume) -> str | None:
    reason = _misfit(volume.grid, volume.atoms)
    if reason is None and min(volume.grid.shape + _periods(volume.grid.box, volume.atoms)) < 2:
        reason = "a direction that is no period needs two points"
    return None if reason is None else f"{reason}; write .npz"


FORMAT = VolumetricFormat(
    name="xsf",
    suffixes=(".xsf",),
    read_stream=read,
    write_stream=write,
    holds_spin=True,
    refusal=_refusal,
    structures=True,
    with_pbc=periodicity.out_of_its_cell,
)
