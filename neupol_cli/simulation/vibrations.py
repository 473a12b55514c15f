"""Frequencies of a structure by differences of forces, their intensities, and what they are worth.

    H_rs = -(f_s(x + d e_r) - f_s(x - d e_r)) / 2d, made symmetric
    d mu / d Q = sum_r e_r d mu / d x_r

Of a molecule the modes that lie most in the space of its rigid motions are those; the others are
its vibrations, however soft or imaginary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase import units as ase_units
from ase.constraints import FixAtoms
from ase.vibrations import VibrationsData

from neupol_cli.errors import InputError
from neupol_cli.io import units
from neupol_cli.simulation.potential import Potential
from neupol_cli.simulation.results import Results, largest_force, marked
from neupol_cli.simulation.thermochemistry import Geometry, IdealGas, geometry_of, ideal_gas

if TYPE_CHECKING:
    from ase import Atoms

    from neupol_cli.models.property import PropertyModel

STATIONARY = 0.05  # eV/Angstrom: a larger force, and frequencies are not those of a minimum
FLAT = 1e-8  # eV, 1e-4/cm: a smaller one is none, as of parts that do not see each other
KM_PER_MOL = 42.255  # of a (D/Angstrom)^2/amu (Porezag, Pederson, Phys. Rev. B 54, 7830, 1996)
DIPOLE = "dipole"


@dataclass(frozen=True)
class VibOptions:
    """What the command line says.

    Attributes:
        delta: how far atoms are moved, Angstrom.
        temperature: K.
        pressure: bar.
        symmetry_number: in how many ways the molecule can be turned onto itself.
        dipoles: a model with a dipole, where intensities are wanted.
    """

    delta: float
    temperature: float
    pressure: float
    symmetry_number: int
    dipoles: PropertyModel | None = None


@dataclass(frozen=True, eq=False)
class Vibrated:
    """The vibrations of one structure.

    Attributes:
        label: its name.
        atoms: it itself.
        energy: eV.
        fmax: the largest force on it, eV/Angstrom.
        energies: (M,) complex, of the modes, eV; imaginary where the structure is no minimum.
        modes: (M, A, 3) displacements, of length 1.
        rigid: (M,) which are no vibrations, but motions of the whole.
        intensities: (M,) infrared, km/mol, where there is a model of dipoles.
        geometry: of a molecule that is free to turn.
        gas: its thermochemistry.
        doubts: reasons not to trust it.
    """

    label: str
    atoms: Atoms
    energy: float
    fmax: float
    energies: np.ndarray
    modes: np.ndarray
    rigid: np.ndarray
    intensities: np.ndarray | None
    geometry: Geometry | None
    gas: IdealGas | None
    doubts: tuple[str, ...]

    @property
    def wavenumbers(self) -> np.ndarray:
        """(M,) 1/cm; imaginary ones are negative."""
        return (self.energies.real - self.energies.imag) / ase_units.invcm

    @property
    def zero_point(self) -> float:
        """Of all vibrations that have one, eV."""
        return float(self.energies[~self.rigid].real.sum() / 2)


def vibrate(potential: Potential, options: VibOptions, named: tuple[str, Atoms]) -> Vibrated:
    """The vibrations of one structure.

    Args:
        potential: the model.
        options: the command line's.
        named: what messages call it, and it itself; atoms that it holds do not move.

    Raises:
        InputError: it holds parts of atoms, or all of them.
        DivergedError: an answer is not finite.
    """
    label, atoms = named[0], named[1].copy()
    atoms.calc = potential.calculator()
    moving = _moving(atoms, label)
    data = VibrationsData(atoms, _hessian(potential.model, atoms, moving, options.delta), moving)
    energies, by_mass = data.get_energies_and_modes(all_atoms=True)
    geometry = geometry_of(atoms) if not atoms.pbc.any() and len(moving) == len(atoms) else None
    rigid = _rigid(atoms, by_mass, geometry)
    energy, fmax = float(atoms.get_potential_energy()), largest_force(atoms)
    real = energies[~rigid & (energies.real > FLAT)].real
    gas = ideal_gas(atoms, energy, real, geometry, options) if geometry else None
    doubts = [*_of_modes(energies[~rigid], fmax), *potential.untaught()]
    return Vibrated(
        label=label,
        atoms=atoms,
        energy=energy,
        fmax=fmax,
        energies=energies,
        modes=by_mass / np.linalg.norm(by_mass, axis=(1, 2))[:, None, None],
        rigid=rigid,
        intensities=_intensities(options, atoms, moving, by_mass, label),
        geometry=geometry,
        gas=gas,
        doubts=(*doubts, *potential.doubts(label, atoms)),
    )


def _moving(atoms: Atoms, label: str) -> np.ndarray:
    """Indices of the atoms that are not held."""
    if any(not isinstance(held, FixAtoms) for held in atoms.constraints):
        raise InputError(f"{label}: holds parts of atoms; vibrations are of whole ones")
    free = np.ones(len(atoms), bool)
    for held in atoms.constraints:
        free[held.index] = False
    if not free.any():
        raise InputError(f"{label}: no atom of it may move")
    return np.flatnonzero(free)


def _displaced(atoms: Atoms, moving: np.ndarray, delta: float) -> list[Atoms]:
    """2 x 3 x moving structures: each coordinate behind, and ahead."""
    images = []
    for atom in moving:
        for axis in range(3):
            for way in (-delta, delta):
                image = atoms.copy()
                image.positions[atom, axis] += way
                images.append(image)
    return images


def _hessian(model: PropertyModel, atoms: Atoms, moving: np.ndarray, delta: float) -> np.ndarray:
    """(m, 3, m, 3) second derivatives, eV/Angstrom^2."""
    forces = model.predict(_displaced(atoms, moving, delta), forces=True)["forces"]
    behind, ahead = np.moveaxis(forces.reshape(-1, 2, len(atoms), 3)[:, :, moving], 1, 0)
    hessian = ((behind - ahead) / (2 * delta)).reshape(3 * len(moving), -1)
    return ((hessian + hessian.T) / 2).reshape(len(moving), 3, len(moving), 3)


def _rigid(atoms: Atoms, by_mass: np.ndarray, geometry: Geometry | None) -> np.ndarray:
    """(M,) which modes are motions of the whole molecule; none of what cannot move as a whole."""
    rigid = np.zeros(len(by_mass), bool)
    if geometry is None:
        return rigid
    roots = np.sqrt(atoms.get_masses())[:, None]
    places = atoms.positions - atoms.get_center_of_mass()
    motions = [np.broadcast_to(axis, places.shape) for axis in np.eye(3)]
    motions += [np.cross(axis, places) for axis in np.eye(3)]
    flat = np.stack([(roots * motion).ravel() for motion in motions])
    basis = np.linalg.svd(flat, full_matrices=False)[2][: geometry.rigid]
    overlaps = np.linalg.norm((roots * by_mass).reshape(len(by_mass), -1) @ basis.T, axis=1)
    rigid[np.argsort(-overlaps, kind="stable")[: geometry.rigid]] = True
    return rigid


def _intensities(
    options: VibOptions, atoms: Atoms, moving: np.ndarray, by_mass: np.ndarray, label: str
) -> np.ndarray | None:
    """(M,) km/mol."""
    if options.dipoles is None:
        return None
    options.dipoles.check([atoms], [label])
    dipoles = options.dipoles.predict(_displaced(atoms, moving, options.delta))[DIPOLE]
    debye = units.convert(dipoles, options.dipoles.targets[DIPOLE], "D").reshape(-1, 2, 3)
    slopes = (debye[:, 1] - debye[:, 0]) / (2 * options.delta)  # (3m, 3), D/Angstrom
    by_mode = by_mass[:, moving].reshape(len(by_mass), -1) @ slopes
    return np.asarray(KM_PER_MOL * np.square(by_mode).sum(1))


def _of_modes(energies: np.ndarray, fmax: float) -> list[str]:
    """Doubts about where the structure is on its surface."""
    doubts = []
    if fmax > STATIONARY:
        doubts.append(f"not at a stationary point: a force of {fmax:.3g} eV/Angstrom; relax first")
    if imaginary := int((energies.imag > FLAT).sum()):
        doubts.append(f"no minimum: {imaginary} of the frequencies are imaginary")
    if zero := int((np.abs(energies) <= FLAT).sum()):
        doubts.append(f"no minimum: {zero} of the frequencies are zero")
    return doubts


def frames(vibrated: Vibrated, potential: Potential) -> list[tuple[Atoms, Results]]:
    """A frame for each vibration, with its displacements as vectors on the atoms."""
    found: list[tuple[Atoms, Results]] = []
    for k in np.flatnonzero(~vibrated.rigid):
        info = {"structure": vibrated.label, "mode": int(k) + 1}
        info |= {"wavenumber_per_cm": float(vibrated.wavenumbers[k])}
        if vibrated.intensities is not None:
            info["intensity_km_per_mol"] = float(vibrated.intensities[k])
        frame = marked(vibrated.atoms, potential, info)
        frame.set_array("displacement", vibrated.modes[k])
        found.append((frame, {}))
    return found


def check_dipoles(model: PropertyModel, name: str) -> None:
    """Refuses a model without a dipole.

    Raises:
        InputError: it has none as a vector.
    """
    place = model.columns.get(DIPOLE, slice(0, 0))
    if place.stop - place.start != 3:
        known = ", ".join(model.targets)
        raise InputError(f"--dipole {name}: intensities need a dipole; this model has {known}")
