"""Whether a cube is periodic, which the format has no place to say.

Told, in this order: by our own second line; by atoms on the box's faces; by the titles of programs
that write nothing but cells, or nothing but molecules; by density at the faces that goes on at the
opposite ones. Whoever knows better says ``--pbc`` or ``--no-pbc``.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from neupol_cli.errors import InputError
from neupol_cli.io.structure_formats.isolated import make_molecule
from neupol_cli.io.volumetric.grid import Volume
from neupol_cli.io.volumetric.guesses import PERIODICITY

PLANE_WAVES = re.compile(
    r"pwscf|espresso|on a fft grid|\bvasp|\babinit|cut3d|\bcpmd|\bcastep|\bqbox|\bsiesta|jdftx|"
    r"\bcrystal\d\d\b|\bonetep",
    re.I,
)
MOLECULES = re.compile(
    r"psi4|multiwfn|\borca\b|total scf density|nwchem|turbomole|q-?chem|gamess|molpro|dalton", re.I
)
OURS = re.compile(r"density in electrons/bohr\^3|^\s*values in ")
DENSE = 0.05  # e/Angstrom^3 on a face: no molecule's box is drawn there
ON_FACE = 1.0  # Angstrom; nearer to a face no atom of a molecule is


def guessed(volume: Volume, titles: list[str]) -> Volume:
    """The volume of a cube that does not say it, periodic or not, with the reason as a note."""
    if OURS.search(titles[1]):
        return volume
    periodic, reason = _evidence(volume, " ".join(titles))
    volume = with_pbc(volume, periodic, "")
    kind = "periodic" if periodic else "a molecule"
    other = "--no-pbc for a molecule" if periodic else "--pbc if it is periodic"
    notes = volume.notes | {PERIODICITY: f"taken for {kind} ({reason}); {other}"}
    return replace(volume, notes=notes)


def _evidence(volume: Volume, title: str) -> tuple[bool, str]:
    if _atom_on_face(volume):
        return True, "atoms are on its faces"
    for pattern, periodic in ((PLANE_WAVES, True), (MOLECULES, False)):
        match = pattern.search(title)
        if match is not None:
            return periodic, f"by its title, '{match[0]}'"
    if any(_goes_on(np.moveaxis(volume.values, axis, 0)) for axis in range(3)):
        return True, "density at its faces goes on at the opposite ones"
    return False, "its faces do not say otherwise"


def _atom_on_face(volume: Volume) -> bool:
    inverse = np.linalg.inv(volume.grid.box)
    fractions = (volume.atoms.positions - volume.grid.origin) @ inverse  # (A,3)
    heights = 1.0 / np.linalg.norm(inverse, axis=0)  # (3,) Angstrom from face to face
    room = np.minimum(fractions, 1.0 - fractions) * heights
    return bool((room < ON_FACE).any())


def _goes_on(planes: np.ndarray) -> bool:
    """Whether the last of the planes (n,..) is a neighbour of the first one, with density there."""
    first, last = planes[0], planes[-1]
    if len(planes) < 3 or min(first.max(), last.max()) < DENSE:
        return False
    inside = max(np.abs(planes[1] - first).sum(), np.abs(last - planes[-2]).sum())
    return bool(np.abs(first - last).sum() <= 2.0 * inside)


def with_pbc(volume: Volume, pbc: bool, name: str) -> Volume:
    """The same density, with the grid's box as the cell of a crystal or without a cell."""
    atoms = volume.atoms.copy()
    atoms.set_cell(volume.grid.box if pbc else np.zeros((3, 3)))
    atoms.pbc = pbc
    notes = {key: value for key, value in volume.notes.items() if key != PERIODICITY}
    return replace(volume, atoms=atoms, notes=notes)


def out_of_its_cell(volume: Volume, pbc: bool, name: str) -> Volume:
    """Of a file that states a cell: without it, if it is one whole molecule in a wide box.

    Raises:
        InputError: the molecule is cut by the box's faces, or the box is narrow; a cell for one
            that states none.
    """
    if pbc and not volume.atoms.pbc.any():
        raise InputError(f"{name}: states that it is a molecule, and cannot be taken for periodic")
    if pbc or not volume.atoms.pbc.any():
        return volume
    atoms = volume.atoms.copy()
    make_molecule(atoms, name)
    return replace(volume, atoms=atoms)
