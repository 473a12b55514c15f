"""ChargE3Net's own files: ``NAME.npy`` with the density, ``NAME_atoms.pkl`` with an ASE structure.

The density is in electrons/Angstrom^3 over the cell, from its corner: (n1,n2,n3), or (n1,n2,n3,2)
with up minus down behind it. A pickle can run any program; of this one only what ASE's structures
are made of is let in, and their classes are never called: a dictionary stands for each.
"""

from __future__ import annotations

import codecs
import copyreg
import io
import pickle
from pathlib import Path

import numpy as np
from ase import Atoms

from neupol_cli.errors import InputError
from neupol_cli.io import files
from neupol_cli.io.volumetric import periodicity
from neupol_cli.io.volumetric.format import VolumetricFormat
from neupol_cli.io.volumetric.grid import Grid, Volume

ATOMS = "_atoms.pkl"


class _Stated:
    """What stands for an object: its attributes, and no code."""


# What the protocols of pickle make arrays and plain objects with: of types, shapes and bytes alone.
# The oldest ones name modules as Python 2 did.
REBUILD, FROM_BUFFER = (np.empty(1).__reduce_ex__(protocol)[0] for protocol in (2, 5))
SAFE: dict[tuple[str, str], object] = {
    ("ase.atoms", "Atoms"): _Stated,
    ("ase.cell", "Cell"): _Stated,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): REBUILD,
    ("numpy._core.multiarray", "_reconstruct"): REBUILD,
    ("numpy.core.numeric", "_frombuffer"): FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): FROM_BUFFER,
    ("_codecs", "encode"): codecs.encode,
    ("copy_reg", "_reconstructor"): copyreg._reconstructor,  # type: ignore[attr-defined]
    ("__builtin__", "object"): object,
}


class _Structures(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        """Raises pickle.UnpicklingError for whatever is no part of a structure."""
        if (module, name) not in SAFE:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return SAFE[module, name]


def read(path: Path) -> Volume:
    """The density in a pair of files, by the name of the first.

    Raises:
        InputError: a file is missing, damaged, or not of this form.
        StorageError: one cannot be read.
    """
    values = _numbers(path)
    atoms = _structure(path.with_name(path.stem + ATOMS))
    if not atoms.cell.rank == 3:
        raise InputError(f"{path}: its structure has no cell to lay the density over")
    shape = values.shape[:3]
    grid = Grid(np.zeros(3), atoms.cell.array / np.array(shape)[:, None], shape)
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
    try:
        with files.reported(path):
            stated = _Structures(io.BytesIO(path.read_bytes())).load()
        return _atoms(vars(stated))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: is no pickled structure of ASE ({error})") from error
    except (pickle.UnpicklingError, EOFError, ImportError, IndexError, MemoryError) as error:
        raise InputError(f"{path}: is no pickled structure of ASE: {error}") from error


def _atoms(stated: dict) -> Atoms:
    """A structure from the attributes of a pickled one, of ASE 3.18 and later or before."""
    arrays = stated["arrays"]
    cell = vars(stated["_cellobj"])["array"] if "_cellobj" in stated else stated["_cell"]
    return Atoms(arrays["numbers"], arrays["positions"], cell=np.array(cell), pbc=stated["_pbc"])


FORMAT = VolumetricFormat(
    name="npy",
    suffixes=(".npy",),
    read_file=read,
    gzipped=False,
    holds_spin=True,
    with_pbc=periodicity.out_of_its_cell,
)
