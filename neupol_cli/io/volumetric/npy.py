"""ChargE3Net's own files: ``NAME.npy`` with the density, ``NAME_atoms.pkl`` with an ASE structure.

The density is in electrons/Angstrom^3 over the cell, from its corner: (n1,n2,n3), or (n1,n2,n3,2)
with up minus down behind it. The pickle is read as data (io/pickles.py) and never unpickled.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms

from neupol_cli.errors import InputError
from neupol_cli.io import files, pickles
from neupol_cli.io.volumetric import periodicity
from neupol_cli.io.volumetric.format import VolumetricFormat
from neupol_cli.io.volumetric.grid import Grid, Volume

ATOMS = "_atoms.pkl"
FARTHEST = 1e6  # Angstrom
ATOMS_CLASS, CELL_CLASS = ("ase.atoms", "Atoms"), ("ase.cell", "Cell")


def read(path: Path) -> Volume:
    """The density in a pair of files, by the name of the first.

    Raises:
        InputError: a file is missing, damaged, or not of this form.
        StorageError: one cannot be read.
    """
    values = _numbers(path)
    atoms = _structure(path.with_name(path.stem + ATOMS))
    shape = values.shape[:3]
    try:
        grid = Grid(np.zeros(3), atoms.cell.array / np.array(shape)[:, None], shape)
    except InputError as error:
        raise InputError(f"{path}: its structure has no cell for the density: {error}") from error
    if values.ndim == 3:
        return Volume(atoms, grid, values)
    return Volume(atoms, grid, values[..., 0], values[..., 1])


def _numbers(path: Path) -> np.ndarray:
    """(n1, n2, n3) or (n1, n2, n3, 2), float64."""
    try:
        with files.reported(path):
            values = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise InputError(f"{path}: not a whole .npy file of numbers ({error})") from error
    spatial = values.shape[:3] if values.shape[3:] in ((), (2,)) else ()
    if len(spatial) != 3 or 0 in spatial or values.dtype.kind not in "iuf":
        raise InputError(f"{path}: {values.dtype} of shape {values.shape} is no density on a grid")
    return np.array(values, np.float64)


def _structure(path: Path) -> Atoms:
    if not path.exists():
        raise InputError(f"{path}: no such file; it holds the structure of the density beside it")
    with files.reported(path):
        content = path.read_bytes()
    try:
        stated = pickles.read(content)
        if pickles.class_of(stated) != ATOMS_CLASS:
            raise pickles.NotPlain("it holds another object")
        return _atoms(pickles.attributes(stated))
    except (pickles.NotPlain, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: is no pickled structure of ASE: {error}") from error


def _atoms(stated: dict[str, object]) -> Atoms:
    """A structure from the attributes of a pickled one, of ASE 3.18 and later or before."""
    arrays, cell = stated["arrays"], stated.get("_cellobj", stated.get("_cell"))
    if not isinstance(arrays, dict):
        raise pickles.NotPlain("it has no arrays")
    if pickles.class_of(cell) == CELL_CLASS:
        cell = pickles.attributes(cell)["array"]
    numbers, pbc = pickles.array(arrays["numbers"]), pickles.array(stated["_pbc"])
    if numbers.dtype.kind not in "iu" or numbers.min(initial=1) < 1 or numbers.max(initial=1) > 118:
        raise pickles.NotPlain("its numbers are not atomic numbers")
    places, vectors = pickles.array(arrays["positions"]), pickles.array(cell)
    if not all(bool((np.abs(lengths) < FARTHEST).all()) for lengths in (places, vectors)):
        raise pickles.NotPlain("its lengths are not finite, or of no structure")
    return Atoms(numbers, places, cell=vectors, pbc=pbc)


FORMAT = VolumetricFormat(
    name="npy",
    suffixes=(".npy",),
    read_file=read,
    gzipped=False,
    holds_spin=True,
    with_pbc=periodicity.out_of_its_cell,
)
