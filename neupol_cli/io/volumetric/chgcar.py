"""VASP's CHGCAR, CHG and AECCAR files.

A POSCAR header, the counts, then density times cell volume (electrons), first index fastest; with
spin a second block holds up minus down. PAW augmentation occupancies may follow each block.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from neupol_cli import provenance
from neupol_cli.io.volumetric import periodicity
from neupol_cli.io.volumetric.augmentation import Augmentation, Occupancies
from neupol_cli.io.volumetric.format import VolumetricFormat
from neupol_cli.io.volumetric.grid import Grid, Shape, Volume
from neupol_cli.io.volumetric.text import Lines

NAMES = ("CHGCAR", "CHG", "AECCAR", "PARCHG")
STRUCTURES = (".xyz", ".extxyz", ".cif", ".poscar", ".traj", ".pdb", ".mol", ".sdf")
START_VASP = (
    "no PAW augmentation occupancies in it: start VASP with ICHARG=1 (it warns, takes atomic "
    "occupancies and converges them); ICHARG=11 needs a CHGCAR with them, that of such a run"
)
START_WITH_OCCUPANCIES = (
    "start VASP with ICHARG=1; ICHARG=11 would keep a predicted density beside occupancies of "
    "another one"
)

# Written with Fortran's 2I4: from ion 1000 on without a blank, from 10,000 on as stars.
_OCCUPANCIES = re.compile(r"(\d+|\*{4})\s+(\d{1,9})\s*\Z")


def is_vasp(base: str) -> bool:
    """Whether VASP would give its density this name: CHGCAR, AECCAR0, Si.CHGCAR, CHGCAR.vasp ...; a
    name that ends as a structure's, CHG.xyz, is one."""
    if Path(base).suffix.lower() in STRUCTURES:
        return False
    words = base.upper().replace("_", ".").replace("-", ".").split(".")
    return any(word.rstrip("0123456789") in NAMES for word in words)


def read(stream: BinaryIO, name: str, size: int | None = None) -> Volume:
    """A density from VASP.

    VASP 4 headers (no line of elements) are read when the title names the elements. Several
    structures in a file, and the four blocks of a noncollinear one, are refused.

    Args:
        stream: the file's bytes.
        name: of the file, for messages.
        size: its bytes, if known.

    Returns:
        The density, e/Angstrom^3, with spin where there is a second block.

    Raises:
        InputError: (file:line) the file is not exactly one density.
    """
    lines = Lines(stream, name, size)
    atoms = _header(lines)
    shape = _counts(lines, lines.next_filled())
    values = _block(lines, shape)
    text, augmentation = _augmentation(lines, len(atoms))
    spin = None
    if text is not None:
        text, moments = _moments(lines, text, len(atoms), shape)
        if _counts(lines, text) != shape:
            lines.wrong(f"the second block should have the counts {shape} of the first one")
        spin = _block(lines, shape)
        text, second = _augmentation(lines, len(atoms))
        if text is not None:
            lines.wrong("more than two blocks (noncollinear, or several structures): not supported")
        augmentation = _with_spin(augmentation, second, moments)
    volume = abs(float(np.linalg.det(atoms.cell.array)))
    grid = Grid(np.zeros(3), atoms.cell.array / np.array(shape)[:, None], shape)
    notes = {"title": atoms.info.pop("title")}
    spin = None if spin is None else spin / volume
    return Volume(atoms, grid, values / volume, spin, notes, augmentation=augmentation)


def _header(lines: Lines) -> Atoms:
    title = lines.next("the title")
    scale = lines.fields("the scale", "f")[0]
    cell = np.array([lines.fields("a lattice vector", "fff") for _ in range(3)])
    volume = abs(float(np.linalg.det(cell)))
    if scale == 0 or volume < 1e-9 * float(np.prod(np.linalg.norm(cell, axis=1))) or volume == 0:
        lines.wrong("the lattice vectors are zero or lie in one plane", 3)
    if scale < 0:  # a negative scale is the wanted volume
        scale = (-scale / volume) ** (1 / 3)
    symbols, counts = _species(lines, title)
    numbers = np.repeat([atomic_numbers[name] for name in symbols], counts)
    positions = _positions(lines, len(numbers), scale, cell * scale)
    return Atoms(numbers, positions, cell=cell * scale, pbc=True, info={"title": title.strip()})


def _species(lines: Lines, title: str) -> tuple[list[str], list[int]]:
    what = "the elements or their counts"
    parts = lines.next(what).split()
    if parts and not parts[0].isdigit():
        names, parts = parts, lines.next("the atom counts").split()
    else:
        names = title.split()[: len(parts)]
    # VASP 6 writes Fe_pv/1a2b3c for the potential; the element is what comes first.
    symbols = [name.split("/")[0].split("_")[0] for name in names]
    unknown = [name for name in symbols if name not in atomic_numbers or name == "X"]
    if unknown or not symbols or len(symbols) != len(parts):
        lines.wrong(f"no element names for {len(parts)} counts (add VASP 5's line of elements)")
    counts = [int(lines.number_of(part, "i", "an atom count")) for part in parts]
    if min(counts) < 0 or sum(counts) < 1 or sum(counts) > 10_000_000:
        lines.wrong(f"atom counts {counts[:8]} make no structure")
    return symbols, counts


def _positions(lines: Lines, count: int, scale: float, cell: np.ndarray) -> np.ndarray:
    mode = lines.next("Direct or Cartesian").strip().lower()
    selective = mode.startswith("s")
    if selective:
        mode = lines.next("Direct or Cartesian").strip().lower()
    if not mode or mode[0] not in "dck":
        lines.wrong(f"expected Direct or Cartesian, found '{mode[:30]}'")
    rows = [_position(lines, selective) for _ in range(count)]
    return np.array(rows) @ cell if mode[0] == "d" else np.array(rows) * scale


def _position(lines: Lines, selective: bool) -> list[float]:
    parts = lines.next("an atom's position").split()
    flags = parts[3:]
    if len(parts) < 3 or any(flag.upper() not in ("T", "F") for flag in flags if selective):
        lines.wrong(f"an atom's position should be three numbers, found '{' '.join(parts)[:60]}'")
    if len(flags) != (3 if selective else 0):
        lines.wrong(f"an atom's position has {len(parts)} columns")
    return [float(lines.number_of(part, "f", "an atom's position")) for part in parts[:3]]


def _counts(lines: Lines, text: str | None) -> Shape:
    parts = (text or "").split()
    if len(parts) != 3:
        lines.wrong(f"expected three grid counts, found '{(text or 'the end of the file')[:60]}'")
    counts = [int(lines.number_of(part, "i", "a grid count")) for part in parts]
    if min(counts) < 1:
        lines.wrong(f"grid counts {counts}: each must be at least 1")
    return counts[0], counts[1], counts[2]


def _block(lines: Lines, shape: Shape) -> np.ndarray:
    """Density times volume; the file's first index is the fastest: (n1, n2, n3)."""
    values = lines.numbers(shape[0] * shape[1] * shape[2], "values", padded=True)
    return np.ascontiguousarray(values.reshape(shape[::-1]).T)


def _augmentation(lines: Lines, atoms: int) -> tuple[str | None, Augmentation | None]:
    """The next filled line behind the occupancies, and these, which come for all atoms or none."""
    text, ions, whole = lines.next_filled(), list[np.ndarray](), True
    while text is not None and text.lstrip().lower().startswith("augmentation"):
        match = _OCCUPANCIES.search(text)
        if match is None:
            lines.wrong(f"an ion and a length should follow, found '{text.strip()[:60]}'")
        real = "imaginary" not in text
        if real and match[1] not in (str(len(ions) + 1), "****"):
            wanted = len(ions) + 1
            lines.wrong(f"augmentation occupancies of ion {match[1]} where {wanted} should come")
        values = lines.numbers(int(match[2]), "augmentation occupancies")
        ions += [values] if real else []
        whole = whole and real
        text = lines.next_filled()
    if len(ions) not in (0, atoms):
        lines.wrong(f"augmentation occupancies for {len(ions)} of {atoms} ions (truncated?)")
    return text, Augmentation(tuple(ions), whole=whole, source=lines.name) if ions else None


def _with_spin(
    first: Augmentation | None, second: Augmentation | None, moments: np.ndarray | None
) -> Augmentation | None:
    if first is None:
        return None
    spin, whole = (None, first.whole) if second is None else (second.total, second.whole)
    return replace(first, spin=spin, moments=moments, whole=first.whole and whole)


def _moments(
    lines: Lines, text: str, atoms: int, shape: Shape
) -> tuple[str | None, np.ndarray | None]:
    """Before its second block VASP 5 and 6 write a moment for every atom, over several lines; the
    line behind them."""
    if text.split() == [str(n) for n in shape]:
        return text, None
    moments: list[float] = []
    line: str | None = text
    while len(moments) < atoms:
        what = "an atom's magnetic moment (or grid counts)"
        if line is None:
            lines.wrong("the file ends before its second block")
        moments += [float(lines.number_of(part, "f", what)) for part in line.split()]
        line = lines.next_filled()
    if len(moments) > atoms:
        lines.wrong(f"{len(moments)} magnetic moments for {atoms} atoms")
    return line, np.array(moments)


def write(stream: BinaryIO, volume: Volume, title: str) -> None:
    """Density times volume in the grid's box, with spin when there is one. A molecule is moved so
    that the grid's origin is the cell's; its box becomes the cell. Atoms keep their order: an
    element that comes twice in a POSCAR comes twice here."""
    grid, box = volume.grid, volume.grid.box
    species = [(name, len(list(run))) for name, run in groupby(volume.atoms.get_chemical_symbols())]
    direct = (volume.atoms.positions - grid.origin) @ np.linalg.inv(box)
    head = [" ".join([*title.split(), *provenance.marked()]), "   1.00000000000000"]
    head += ["".join(f"{x:22.16f}" for x in row) for row in box]
    head += ["".join(f"{name:>5s}" for name, _ in species)]
    head += ["".join(f"{count:6d}" for _, count in species), "Direct"]
    head += ["".join(f"{x:20.16f}" for x in row) for row in direct]
    stream.write(("\n".join(head) + "\n\n").encode())
    cell_volume = abs(float(np.linalg.det(box)))
    augmentation = volume.augmentation or Augmentation(())
    _write_block(stream, volume.values, cell_volume)
    _write_occupancies(stream, augmentation.total)
    if volume.spin is not None:
        if augmentation.moments is not None:
            stream.write(_rows(augmentation.moments, " %19.12E"))
        _write_block(stream, volume.spin, cell_volume)
        _write_occupancies(stream, augmentation.spin or ())


def _write_block(stream: BinaryIO, values: np.ndarray, cell_volume: float) -> None:
    stream.write("".join(f"{n:5d}" for n in values.shape).encode() + b"\n")
    # Five planes at a time, or a multiple: then a line of five never spans two parts.
    planes = 5 * max(1, 200_000 // max(1, values[:, :, 0].size))
    for start in range(0, values.shape[2], planes):
        block = values[:, :, start : start + planes].transpose(2, 1, 0)  # first index fastest
        stream.write(_rows((block.astype(np.float64) * cell_volume).reshape(-1), " %17.11E"))


def _write_occupancies(stream: BinaryIO, occupancies: Occupancies) -> None:
    """In Fortran's 2I4 and E15.7, as VASP does."""
    for ion, values in enumerate(occupancies, start=1):
        number = f"{ion:4d}" if ion < 10_000 else "****"
        stream.write(f"augmentation occupancies{number}{len(values):4d}\n".encode())
        stream.write(_rows(values, "%15.7E"))


def _rows(values: np.ndarray, pattern: str) -> bytes:
    """Numbers (N,), five a line."""
    full, rest = divmod(len(values), 5)
    text = (pattern * 5 + "\n") * full + (pattern * rest + "\n" if rest else "")
    return (text % tuple(values.tolist())).encode()


def _how_to_start(volume: Volume) -> str:
    counts = " ".join(str(n) for n in volume.grid.shape)
    if volume.augmentation is None:
        return f"NGXF NGYF NGZF = {counts}; {START_VASP}"
    return (
        f"NGXF NGYF NGZF = {counts}; PAW augmentation occupancies are those of "
        f"{volume.augmentation.source}, the grid is predicted: {START_WITH_OCCUPANCIES}"
    )


def _refusal(volume: Volume) -> str | None:
    cell, periodic = volume.atoms.cell.array, volume.atoms.pbc.all()
    if periodic and abs(volume.grid.box - cell).max() > 1e-4:
        return "the grid does not fill the cell, as it must; take --grid, or write .xsf or .npz"
    return None


FORMAT = VolumetricFormat(
    name="CHGCAR",
    matches=is_vasp,
    read_stream=read,
    write_stream=write,
    holds_spin=True,
    holds_augmentation=True,
    densities_only=True,
    refusal=_refusal,
    note=_how_to_start,
    with_pbc=periodicity.out_of_its_cell,
)
