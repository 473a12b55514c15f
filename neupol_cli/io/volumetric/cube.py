"""Gaussian cube files.

Two lines of text; atom count and origin; three lines of count and voxel vector; the atoms; the
values, third index fastest. Lengths are bohr and values electrons/bohr^3; negative counts say that
the file's lengths (origin, voxels and atoms) are Angstrom, and never change the values' unit.
"""

from __future__ import annotations

import re
from typing import BinaryIO

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from neupol_cli import provenance
from neupol_cli.errors import InputError
from neupol_cli.io.units import BOHR, HARTREE
from neupol_cli.io.volumetric import periodicity
from neupol_cli.io.volumetric.format import VolumetricFormat
from neupol_cli.io.volumetric.grid import DENSITY, Grid, Volume
from neupol_cli.io.volumetric.text import Lines

_NOTES = {
    "electrons": re.compile(r"electrons\s+(\S+?),?(?:\s|$)", re.I),
    "energy": re.compile(r"energy\s+(\S+)\s+Ha\b", re.I),
    "dipole": re.compile(r"dipole\s+(\S+)\s+(\S+)\s+(\S+)\s+D\b", re.I),
}
_UNIT = re.compile(r"^\s*values in (.+?)(?:,|;|\s*$)")  # as `write` says of what is no density
_PERIODIC = re.compile(r"\bpbc ([TF]) ([TF]) ([TF])\b")


def read(stream: BinaryIO, name: str, size: int | None = None) -> Volume:
    """A density from a cube.

    A cube does not say whether it is periodic; ours do in their second line (``pbc T T T``), of
    others it is told from what they hold (periodicity.py). ``electrons N``, ``energy E Ha``,
    ``dipole x y z D`` there become notes (energy in eV).

    Args:
        stream: the file's bytes.
        name: of the file, for messages.
        size: its bytes, if known.

    Returns:
        The density, e/Angstrom^3.

    Raises:
        InputError: (file:line) the file is not exactly one cube of one density.
    """
    lines = Lines(stream, name, size)
    title = [lines.next("a title") for _ in range(2)]
    other = _UNIT.search(title[1])
    if other and not other[1].endswith("/bohr^3"):
        lines.wrong(f"its values are in {other[1]}, not e/bohr^3: it holds no density")
    count, origin = _atoms_line(lines)
    shape, step, unit = _voxels(lines)
    numbers, positions = _atoms(lines, count)
    total = shape[0] * shape[1] * shape[2]
    values = lines.numbers(total, "values").reshape(shape)
    lines.finish()
    try:
        grid = Grid(np.array(origin) * unit, step, shape)
    except InputError as error:
        raise InputError(f"{lines.name}:4: {error}") from error
    periodic = _PERIODIC.search(title[1])
    cell = grid.box if periodic else None
    pbc = [flag == "T" for flag in periodic.groups()] if periodic else False
    atoms = Atoms(numbers, positions * unit, cell=cell, pbc=pbc)
    volume = Volume(atoms, grid, values / BOHR**3, notes=_notes(title))
    return volume if periodic else periodicity.guessed(volume, title)


def _atoms_line(lines: Lines) -> tuple[int, list[float]]:
    what = "the atom count and the origin"
    parts = lines.next(what).split()
    if len(parts) not in (1, 4, 5):
        lines.wrong(f"{what} should be 'N x y z', found '{' '.join(parts)[:60]}'")
    count = int(lines.number_of(parts[0], "i", "the atom count"))
    if count < 0:
        lines.wrong("a negative atom count announces orbitals, not one density; write a density")
    if len(parts) == 5 and lines.number_of(parts[4], "i", "the number of data sets") != 1:
        lines.wrong(f"{parts[4]} values a point: several data sets; write the density alone")
    # Some programs leave the origin out where it is zero.
    numbers = [float(lines.number_of(part, "f", "the origin")) for part in parts[1:4]]
    return count, numbers or [0.0, 0.0, 0.0]


def _voxels(lines: Lines) -> tuple[tuple[int, int, int], np.ndarray, float]:
    rows = [lines.fields("a voxel count and vector", "ifff") for _ in range(3)]
    counts = [row[0] for row in rows]
    if 0 in counts or len({count < 0 for count in counts}) != 1:
        lines.wrong(f"voxel counts {counts}: none may be zero, and all have the same sign")
    unit = 1.0 if counts[0] < 0 else BOHR
    shape = (abs(counts[0]), abs(counts[1]), abs(counts[2]))
    return shape, np.array([row[1:] for row in rows]) * unit, unit


def _atoms(lines: Lines, count: int) -> tuple[list[int], np.ndarray]:
    numbers: list[int] = []
    positions: list[list[float]] = []
    for _ in range(count):
        number, _charge, *position = lines.fields("atomic number, charge and position", "iffff")
        if not 0 < number < len(chemical_symbols):
            lines.wrong(f"{number} is not the atomic number of an element")
        numbers.append(number)
        positions.append(position)
    return numbers, np.array(positions).reshape(-1, 3)


def _notes(title: list[str]) -> dict:
    notes: dict = {"title": title[0].strip(), "titles": " ".join(title)}
    for name, pattern in _NOTES.items():
        match = pattern.search(title[1])
        try:
            numbers = [float(part) for part in match.groups()] if match else []
        except ValueError:
            continue  # free text that merely looks like a note
        if numbers and np.isfinite(numbers).all():
            notes[name] = np.array(numbers) if name == "dipole" else numbers[0]
    if "energy" in notes:
        notes["energy"] *= HARTREE
    return notes


def write(stream: BinaryIO, volume: Volume, title: str) -> None:
    """The total density as a cube: bohr, electrons/bohr^3, ten and eight digits, so that the sum
    over the file keeps the electrons to 1e-7. A spin density has no place in it. Values that are
    no density are written as they are."""
    grid, atoms = volume.grid, volume.atoms
    density = volume.unit == DENSITY
    second = f"values in {volume.unit}"
    if density:
        second = f"{_stated(volume)}, density in electrons/bohr^3"
    if atoms.pbc.any():
        second += ", pbc " + " ".join("T" if flag else "F" for flag in atoms.pbc)
    second = provenance.with_sums(second)
    first = provenance.title(" ".join(title.split()))
    head = [first, second, _row(len(atoms), grid.origin)]
    head += [_row(n, row) for n, row in zip(grid.shape, grid.step, strict=True)]
    for number, position in zip(atoms.numbers, atoms.positions, strict=True):
        head.append(f"{number:5d}{float(number):12.6f}" + _row(None, position))
    stream.write(("\n".join(head) + "\n").encode())
    pattern = _pattern(grid.shape[2])
    for plane in volume.values:
        rows = (plane.astype(np.float64) * (BOHR**3 if density else 1.0)).tolist()
        stream.write("".join(pattern % tuple(row) for row in rows).encode())


def _stated(volume: Volume) -> str:
    """What is known beside the values, as `_notes` reads it; the sum where nobody counted."""
    notes = volume.notes
    parts = [f"electrons {notes.get('electrons', volume.electrons):.8g}"]
    if "energy" in notes:
        parts.append(f"energy {notes['energy'] / HARTREE:.8f} Ha")
    if "dipole" in notes:
        parts.append("dipole {:.5f} {:.5f} {:.5f} D".format(*notes["dipole"]))
    return ", ".join(parts)


def _row(count: int | None, vector: np.ndarray) -> str:
    lead = "" if count is None else f"{count:5d}"
    return lead + "".join(f"{x:18.11f}" for x in np.asarray(vector) / BOHR)


def _pattern(count: int) -> str:
    """One format string for a row of `count` values, six a line."""
    widths = [6] * (count // 6) + ([count % 6] if count % 6 else [])
    return "".join(" %14.7E" * width + "\n" for width in widths)


def _refusal(volume: Volume) -> str | None:
    """A cube has no cell beside its box."""
    apart = np.abs(volume.grid.box - np.asarray(volume.atoms.cell.array))[volume.atoms.pbc]
    if apart.size and apart.max() > 1e-3:
        return "the grid does not fill the cell, which a cube takes it for; write .xsf or .npz"
    return None


FORMAT = VolumetricFormat(
    name="cube",
    suffixes=(".cube", ".cub"),
    read_stream=read,
    write_stream=write,
    refusal=_refusal,
    short_titles=True,
    with_pbc=periodicity.with_pbc,
)
