"""The structures of a file for the commands that predict densities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from neupol_cli.errors import UsageError
from neupol_cli.io import soundness, structures, volumetric
from neupol_cli.io.structure_formats import isolated
from neupol_cli.io.structure_formats.frame import AS_WRITTEN, Reading
from neupol_cli.io.volumetric import guesses
from neupol_cli.text import printable

if TYPE_CHECKING:
    from ase import Atoms


def frames(
    source: str, on_error: str, reading: Reading = AS_WRITTEN, doubts_told: bool = True
) -> Iterator[tuple[str, Atoms]]:
    """(label, checked structure) of each structure in a file, or on stdin (``-``).

    Of a cube or CHGCAR only the atoms count here, of a dataset every structure, with densities or
    without; ``GridChoice`` reads the grid of a file that is to give it. ``reading`` and
    ``doubts_told``: as of ``structures.read``.
    """
    if source == "-" or not is_single_density(source):
        yield from structures.read([source], on_error, reading=reading, doubts_told=doubts_told)
        return
    volume, label = volumetric.read(source, reading.pbc), printable(source)
    guesses.tell(label, volume)
    soundness.check(volume.atoms, label)
    if reading.pbc is False:
        isolated.make_molecule(volume.atoms, label)
    yield label, volume.atoms


def is_single_density(source: str) -> bool:
    """Whether a name is that of a format whose files hold one density each, and no less."""
    try:
        volumetric_format = volumetric.format_of(source)
    except UsageError:
        return False
    return (
        volumetric_format.readable
        and not volumetric_format.multiple
        and not volumetric_format.structures
    )
