"""NumPy's ``.npz``: every array under its name, in Angstrom, with the numbers exactly as they are.

    density (n1,n2,n3)  spin (n1,n2,n3)  unit, title   text
    origin (3,)  step (3,3)                            Angstrom, row a is the step along axis a
    numbers (A,)  positions (A,3)  cell (3,3)  pbc (3,)
    electrons (), energy () eV, dipole (3,) D          where they are known

``spin`` (up minus down) and the last line may be missing. Nothing in such a file is ever unpickled,
and no array is made before the file is seen to hold it.
"""

from __future__ import annotations

import errno
import io
import zipfile
import zlib
from typing import BinaryIO

import numpy as np
from ase import Atoms

from neupol_cli import provenance
from neupol_cli.errors import InputError, StorageError
from neupol_cli.io import units
from neupol_cli.io.volumetric import periodicity
from neupol_cli.io.volumetric.format import VolumetricFormat
from neupol_cli.io.volumetric.grid import DENSITY, Grid, Shape, Volume

NEEDED = ("density", "origin", "step", "numbers", "positions", "cell", "pbc", "unit")
NOTES: dict[str, tuple[int, ...]] = {"electrons": (), "energy": (), "dipole": (3,)}
MEMBERS = 64  # arrays in one file; ours have a dozen
EXPANSION = 1100  # deflate cannot do better than 1032 to 1
HEADER = 1 << 16  # bytes before the numbers of an array
Arrays = dict[str, np.ndarray]


def read(stream: BinaryIO, name: str, size: int | None = None) -> Volume:
    """A density from an ``.npz`` file, as `write` makes it.

    Args:
        stream: the file's bytes.
        name: of the file, for messages.
        size: its bytes, if known.

    Returns:
        The density, float64 e/Angstrom^3.

    Raises:
        InputError: cut short, damaged, no density, arrays missing or not fitting together.
        StorageError: the disk refuses.
    """
    try:
        arrays = _arrays(stream, name, size)
    except InputError:
        raise
    except OSError as error:
        # A directory of the archive that is cut short has it look before the first byte (EINVAL).
        if error.errno not in (None, errno.EINVAL):
            raise StorageError(f"{name}: {error.strerror}") from error
        raise InputError(f"{name}: not a whole .npz file ({error})") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: not a whole .npz file ({error})") from error
    return _volume(arrays, name)


def _arrays(stream: BinaryIO, name: str, size: int | None) -> Arrays:
    """The arrays that a density has, and no others."""
    with zipfile.ZipFile(stream) as archive:
        members = {item.filename.removesuffix(".npy"): item for item in archive.infolist()}
        missing = [key for key in NEEDED if key not in members]
        if missing or len(members) > MEMBERS:
            raise InputError(f"{name}: not a density: it has no array '{(missing or ['?'])[0]}'")
        wanted = [key for key in (*NEEDED, "spin", "title", *NOTES) if key in members]
        return {key: _array(archive, members[key], f"{name}: {key}", size) for key in wanted}


def _array(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str, size: int | None
) -> np.ndarray:
    """One array, after its header has been compared with the bytes that there are."""
    packed = member.compress_size
    if member.file_size > EXPANSION * packed or (size is not None and packed > size):
        raise InputError(f"{where} declares {member.file_size:,} bytes that the file does not hold")
    with archive.open(member) as content:
        head = io.BytesIO(content.read(HEADER))
    shape, dtype = _header(head)
    points = 1
    for count in shape:
        points *= count  # Python's whole numbers do not overflow
    if dtype.hasobject or dtype.kind not in "iufbU":
        raise InputError(f"{where} does not hold plain numbers")
    if head.tell() + points * dtype.itemsize != member.file_size:
        raise InputError(f"{where} declares {shape} numbers that the file does not hold")
    with archive.open(member) as content:
        return np.asarray(np.lib.format.read_array(content, allow_pickle=False))


def _header(head: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of number; leaves ``head`` where the numbers begin."""
    version = np.lib.format.read_magic(head)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(head)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(head)
    return shape, dtype


def _volume(arrays: Arrays, name: str) -> Volume:
    density = _numbers(arrays, "density", name)
    if density.ndim != 3:
        raise InputError(f"{name}: density has shape {density.shape}; three axes are needed")
    shape: Shape = (density.shape[0], density.shape[1], density.shape[2])
    spin = _numbers(arrays, "spin", name, shape) if "spin" in arrays else None
    notes: dict = {"title": str(arrays["title"])} if "title" in arrays else {}
    for key in NOTES.keys() & arrays.keys():
        value = _numbers(arrays, key, name, NOTES[key])
        notes[key] = value if value.ndim else float(value)
    try:
        grid = Grid(
            _numbers(arrays, "origin", name, (3,)), _numbers(arrays, "step", name, (3, 3)), shape
        )
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    factor = _factor(str(arrays["unit"]), name)
    spin = None if spin is None else spin * factor
    return Volume(_atoms(arrays, name), grid, density * factor, spin, notes)


def _factor(unit: str, name: str) -> float:
    """From the file's unit to ours; 1 exactly for files that neupol wrote."""
    try:
        return units.factor(unit, DENSITY)
    except InputError as error:
        raise InputError(f"{name}: its values are in {unit}: it holds no density") from error


def _atoms(arrays: Arrays, name: str) -> Atoms:
    numbers = arrays["numbers"]
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or not len(numbers):
        raise InputError(f"{name}: numbers are not atomic numbers, one an atom")
    if numbers.min() < 1 or numbers.max() > 118:
        raise InputError(f"{name}: numbers has atomic numbers that no element has")
    pbc = arrays["pbc"]
    if pbc.shape != (3,) or pbc.dtype.kind != "b":
        raise InputError(f"{name}: pbc has to be three of true and false")
    positions = _numbers(arrays, "positions", name, (len(numbers), 3))
    return Atoms(numbers, positions, cell=_numbers(arrays, "cell", name, (3, 3)), pbc=pbc)


def _numbers(
    arrays: Arrays, key: str, name: str, shape: tuple[int, ...] | None = None
) -> np.ndarray:
    """One array as float64; InputError unless it is finite and has this shape."""
    values = arrays[key]
    if values.dtype.kind not in "iuf":
        raise InputError(f"{name}: {key} does not hold numbers")
    if shape is not None and values.shape != shape:
        raise InputError(f"{name}: {key} has shape {values.shape}, not {shape}")
    if not np.isfinite(values).all():
        raise InputError(f"{name}: {key} has values that are not finite")
    return values.astype(np.float64)


def write(stream: BinaryIO, volume: Volume, title: str) -> None:
    """A density with its grid and atoms; the values keep their own type of number."""
    atoms, grid = volume.atoms, volume.grid
    arrays: Arrays = {
        "density": volume.values,
        "unit": np.array(volume.unit),
        "title": np.array(" ".join(title.split())),
        "origin": grid.origin,
        "step": grid.step,
        "numbers": np.asarray(atoms.numbers),
        "positions": np.asarray(atoms.positions),
        "cell": np.asarray(atoms.cell.array),
        "pbc": np.asarray(atoms.pbc),
    }
    if volume.spin is not None:
        arrays["spin"] = volume.spin
    if origin := provenance.text():
        arrays[provenance.KEY] = np.array(origin)
    known = {key: np.asarray(volume.notes[key]) for key in NOTES if key in volume.notes}
    if volume.unit == DENSITY:
        known.setdefault("electrons", np.asarray(volume.electrons))
    # Numbers and text only: nothing to pickle, and nothing is called as savez' own options are.
    np.savez(stream, **arrays | known)  # type: ignore[arg-type]


FORMAT = VolumetricFormat(
    name="npz",
    suffixes=(".npz",),
    read_stream=read,
    write_stream=write,
    gzipped=False,
    holds_spin=True,
    with_pbc=periodicity.out_of_its_cell,
)
