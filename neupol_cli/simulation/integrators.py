"""ASE's dynamics by name, and all that one of them keeps between two steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Protocol, cast

import numpy as np
import torch
from ase import units
from ase.constraints import FixCom
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT, NoseHooverChainNVT
from ase.md.verlet import VelocityVerlet

from neupol_cli.errors import CheckpointError, InputError, UsageError
from neupol_cli.options import COUPLINGS, PRESSURES, TEMPERATURES, TIMESTEPS

if TYPE_CHECKING:
    from ase import Atoms
    from ase.md.md import MolecularDynamics

ENSEMBLES = ("nve", "nvt", "npt")
THERMOSTATS = ("langevin", "bussi", "nose-hoover")
BAROSTATS = ("mtk", "mtk-cell")
STILL = 1e-12  # eV of kinetic energy, which ASE's Bussi takes for none
SLOWER = 10  # times the thermostat's time: how long a barostat takes
BAR = 1e5 * units.Pascal
CHAIN = ("_thermostat._eta", "_thermostat._p_eta")
CELL = (*CHAIN, "_barostat._xi", "_barostat._p_xi")
# What each has beside places, velocities, cell and random numbers.
KEPT: Mapping[type, tuple[str, ...]] = {
    VelocityVerlet: (),
    Langevin: (),
    Bussi: ("transferred_energy",),
    NoseHooverChainNVT: CHAIN,
    IsotropicMTKNPT: (*CELL, "_eps", "_p_eps", "_cell0", "_volume0"),
    MTKNPT: (*CELL, "_p_g"),
}


@dataclass(frozen=True)
class Ensemble:
    """What is held constant, and by what.

    Attributes:
        kind: ``nve``, ``nvt`` or ``npt``.
        thermostat: of ``nvt``, one of ``THERMOSTATS``.
        barostat: of ``npt``, one of ``BAROSTATS``: the volume or the whole cell moves; a
            Nose-Hoover chain comes with it.
        temperature: K; also of velocities that are drawn.
        pressure: bar.
        timestep: fs.
        coupling: time in which the thermostat acts, fs.
    """

    kind: str
    thermostat: str
    barostat: str
    temperature: Annotated[float, TEMPERATURES]
    pressure: Annotated[float, PRESSURES]
    timestep: Annotated[float, TIMESTEPS]
    coupling: Annotated[float, COUPLINGS]

    def __post_init__(self) -> None:
        """Refuses words that there are not (UsageError)."""
        for option, value, known in (
            ("--ensemble", self.kind, ENSEMBLES),
            ("--thermostat", self.thermostat, THERMOSTATS),
            ("--barostat", self.barostat, BAROSTATS),
        ):
            if value not in known:
                raise UsageError(f"{option} is one of {', '.join(known)}, not '{value}'")

    @property
    def chained(self) -> bool:
        """Whether a Nose-Hoover chain acts, which counts all 3 N degrees of freedom."""
        return self.kind == "npt" or (self.kind == "nvt" and self.thermostat == "nose-hoover")

    @property
    def scales(self) -> bool:
        """Whether velocities are rescaled, and must not be zero."""
        return self.kind == "nvt" and self.thermostat == "bussi"

    def check(self, label: str, atoms: Atoms) -> None:
        """Refuses a structure that cannot be moved so.

        Raises:
            InputError: it holds atoms, of which a chain knows nothing.
        """
        if self.chained and atoms.constraints:
            what = "a barostat" if self.kind == "npt" else "nose-hoover"
            raise InputError(
                f"{label}: holds atoms, which {what} does not know; take langevin or bussi"
            )


class _Conserves(Protocol):
    def get_conserved_energy(self) -> float: ...


def set_out(label: str, atoms: Atoms, ensemble: Ensemble, random: np.random.Generator) -> None:
    """Prepares a structure: holds its centre of mass where nothing else is held, and draws
    velocities where it has none.

    Velocities are drawn from Maxwell and Boltzmann's distribution at the ensemble's temperature.

    Raises:
        InputError: atoms are held that must not be, or velocities are to be scaled that are none.
    """
    ensemble.check(label, atoms)
    if not ensemble.chained and not atoms.constraints and len(atoms) > 1:
        atoms.set_constraint(FixCom())
    momenta = atoms.get_momenta()
    if not atoms.has("momenta"):
        widths = np.sqrt(atoms.get_masses() * units.kB * ensemble.temperature)
        momenta = random.standard_normal((len(atoms), 3)) * widths[:, None]
    atoms.set_momenta(momenta)  # of which what is held has none
    if ensemble.scales and not atoms.get_kinetic_energy() > STILL:
        raise InputError(f"{label}: bussi scales velocities, and nothing moves; take langevin")


def build(atoms: Atoms, ensemble: Ensemble, random: np.random.Generator) -> MolecularDynamics:
    """ASE's dynamics for a structure that has a calculator and velocities.

    Args:
        atoms: are moved by it.
        ensemble: what is held constant.
        random: where its random numbers come from.
    """
    step, time = ensemble.timestep * units.fs, ensemble.coupling * units.fs
    if ensemble.kind == "nve":
        return VelocityVerlet(atoms, step)
    heat = {"temperature_K": ensemble.temperature}
    if ensemble.kind == "npt":
        barostat = {"mtk": IsotropicMTKNPT, "mtk-cell": MTKNPT}[ensemble.barostat]
        pressure = {"pressure_au": ensemble.pressure * BAR, "pdamp": SLOWER * time}
        return barostat(atoms, step, tdamp=time, **heat, **pressure)
    if ensemble.thermostat == "langevin":
        return Langevin(atoms, step, friction=1 / time, fixcm=False, rng=random, **heat)
    if ensemble.thermostat == "bussi":
        return Bussi(atoms, step, taut=time, rng=random, **heat)
    return NoseHooverChainNVT(atoms, step, tdamp=time, **heat)


def conserved(dynamics: MolecularDynamics) -> float | None:
    """What would stay the same for steps that are short enough, eV; None where nothing would."""
    if isinstance(dynamics, Langevin):
        return None
    if hasattr(dynamics, "get_conserved_energy"):
        return cast(_Conserves, dynamics).get_conserved_energy()
    energy = float(dynamics.atoms.get_total_energy())
    return energy - dynamics.transferred_energy if isinstance(dynamics, Bussi) else energy


def kept(dynamics: MolecularDynamics) -> dict[str, torch.Tensor]:
    """A copy of what it has beside atoms and random numbers, bit for bit."""
    values = {name: attrgetter(name)(dynamics) for name in KEPT[type(dynamics)]}
    return {name: torch.from_numpy(np.array(value, float)) for name, value in values.items()}


def restore(dynamics: MolecularDynamics, values: Mapping[str, torch.Tensor]) -> None:
    """Puts back what `kept` gave; CheckpointError where it is another ensemble's."""
    if {*values} != {*KEPT[type(dynamics)]}:
        raise CheckpointError("the state is not one of the ensemble that settings.json names")
    for name in KEPT[type(dynamics)]:
        path, _, last = name.rpartition(".")
        owner = attrgetter(path)(dynamics) if path else dynamics
        value = values[name]
        setattr(owner, last, value.numpy().copy() if value.ndim else float(value))
