"""Densities of known integrals, and their files as bytes."""

from __future__ import annotations

import io

import numpy as np
from ase import Atoms

from neupol_cli.io import volumetric
from neupol_cli.io.volumetric import Grid, Volume, by_counts

CELL = np.array([[5.0, 0.3, -0.2], [1.1, 4.2, 0.4], [-0.7, 0.6, 6.1]])
SHAPE = (12, 9, 16)
FORMATS = {each.name.lower(): each for each in volumetric.FORMATS}


def crystal(spin: bool = False) -> Volume:
    """A smooth periodic density of exactly 11 electrons in a triclinic cell."""
    atoms = Atoms("NaOH", [[0.1, 0.2, 0.3], [2.0, 2.1, 2.5], [2.9, 2.3, 2.6]], cell=CELL, pbc=True)
    i, j, k = np.meshgrid(*[np.arange(n) / n for n in SHAPE], indexing="ij")
    wave = (
        1.0
        + 0.5 * np.cos(2 * np.pi * i)
        + 0.3 * np.sin(2 * np.pi * (j + k)) * np.cos(4 * np.pi * k)
    )
    grid = by_counts(atoms, SHAPE, 3.0)
    values = 11.0 * wave / abs(np.linalg.det(CELL))
    return Volume(atoms, grid, values, values * 0.25 if spin else None)


def molecule() -> Volume:
    """Two Gaussians of 8 and 2 electrons on a skewed grid that begins somewhere."""
    atoms = Atoms("OH", [[0.2, -0.1, 0.3], [1.1, 0.1, 0.4]])
    step = np.array([[0.20, 0.01, 0.0], [0.0, 0.21, 0.02], [0.03, 0.0, 0.19]])
    shape = (51, 49, 53)
    origin = atoms.positions.mean(axis=0) - 0.5 * np.array(shape) @ step
    grid = Grid(origin, step, shape)
    values = np.zeros(grid.size)
    for position, electrons in zip(atoms.positions, (8.0, 2.0), strict=True):
        squared = ((grid.points() - position) ** 2).sum(axis=1)
        values += electrons * np.exp(-squared / 0.5) / (np.pi * 0.5) ** 1.5
    return Volume(atoms, grid, values.reshape(shape))


def text_of(volume: Volume, kind: str) -> bytes:
    stream = io.BytesIO()
    write = FORMATS[kind].write_stream
    assert write is not None
    write(stream, volume, "a title")
    return stream.getvalue()


def parse(text: bytes, kind: str) -> Volume:
    read = FORMATS[kind].read_stream
    assert read is not None
    return read(io.BytesIO(text), "file", len(text))


def small_vasp(spin: bool, augmented: bool) -> bytes:
    """A CHGCAR as VASP 5 writes it, 3 x 2 x 4 points, two atoms."""
    head = "two atoms\n 1.0\n 3.0 0.0 0.0\n 0.5 2.5 0.0\n 0.0 0.1 4.0\n Si O\n 1 1\nDirect\n"
    head += "  0.1 0.2 0.3\n  0.5 0.6 0.7\n\n"
    values = np.linspace(0.1, 2.4, 24)
    rows = [" ".join(f"{x:.11E}" for x in values[i : i + 5]) for i in range(0, 24, 5)]
    block = "  3  2  4\n " + "\n ".join(rows) + "\n"
    aug = "".join(
        f"augmentation occupancies   {ion}   7\n  "
        + " 0.1234567E+00" * 5
        + "\n"
        + " 0.1E-02" * 2
        + "\n"
        for ion in (1, 2)
    )
    text = head + block + (aug if augmented else "")
    if spin:
        text += "  0.1500000E+01  0.250000E+00\n" + block + (aug if augmented else "")
    return text.encode()
