"""XCrySDen's XSF, written only: a general grid, which repeats its first point at the end of every
periodic direction. Lengths are Angstrom; values electrons/Angstrom^3."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from neupol_cli.io.volumetric.format import VolumetricFormat
from neupol_cli.io.volumetric.grid import Volume


def write(stream: BinaryIO, volume: Volume, title: str) -> None:
    """The total density, then the spin density where there is one, as two data grids.

    XSF's spanning vectors run from the first to the last point. A periodic direction therefore gets
    one point more, its first one again; the others do not.
    """
    atoms, grid = volume.atoms, volume.grid
    periodic = np.array(atoms.pbc)
    head = [f"# {' '.join(title.split())}", f"# values in {volume.unit}, lengths in Angstrom"]
    if periodic.any():
        # XCrySDen knows slabs and wires only along the first axes; anything else is a crystal.
        kinds = {(True, True, False): "SLAB", (True, False, False): "POLYMER"}
        head += [kinds.get(tuple(periodic.tolist()), "CRYSTAL"), "PRIMVEC"]
        head += [_row(row) for row in grid.box]
        head += ["PRIMCOORD", f"{len(atoms)} 1"]
    else:
        head += ["ATOMS"]
    head += [f"{n:3d} {_row(r)}" for n, r in zip(atoms.numbers, atoms.positions, strict=True)]
    head += ["BEGIN_BLOCK_DATAGRID_3D", "electron_density"]
    stream.write(("\n".join(head) + "\n").encode())
    _write_grid(stream, volume, volume.values, periodic, "density")
    if volume.spin is not None:
        _write_grid(stream, volume, volume.spin, periodic, "spin")
    stream.write(b"END_BLOCK_DATAGRID_3D\n")


def _write_grid(
    stream: BinaryIO, volume: Volume, values: np.ndarray, periodic: np.ndarray, name: str
) -> None:
    grid = volume.grid
    counts = np.array(grid.shape) + periodic
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


FORMAT = VolumetricFormat(name="xsf", suffixes=(".xsf",), write_stream=write, holds_spin=True)
