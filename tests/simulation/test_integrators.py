"""What ensembles conserve, and that they go on to the bit from what is kept."""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np
import pytest

from neupol_cli.errors import InputError
from neupol_cli.simulation import dynamics, integrators
from neupol_cli.simulation.integrators import Ensemble
from neupol_cli.simulation.potential import Potential
from neupol_cli.simulation.state import State
from tests.simulation import harmonic

NAMES = ["nve", "langevin", "bussi", "nose-hoover", "mtk", "mtk-cell"]


def ensemble_of(name: str, timestep: float = 0.5) -> Ensemble:
    kind = {"nve": "nve", "mtk": "npt", "mtk-cell": "npt"}.get(name, "nvt")
    thermostat = name if kind == "nvt" else "langevin"
    barostat = name if kind == "npt" else "mtk"
    return Ensemble(kind, thermostat, barostat, 100.0, 1.0, timestep, 20.0)


def started(ensemble: Ensemble) -> tuple[Potential, State]:
    if ensemble.kind == "npt":
        springs = harmonic.built(cutoff=1.4, targets=("energy",), units=("eV",), outputs=())
        atoms = ase.Atoms("OH", [[0, 0, 0], [1.05, 0, 0]], cell=[2.1] * 3, pbc=True)
    else:
        springs = harmonic.built()
        atoms = ase.Atoms("OH2", [[0, 0, 0], [0.6, 0.9, 0], [-0.5, 0.9, 0.1]])
    potential = Potential(springs, "springs", ensemble.kind == "npt")
    return potential, dynamics.begin(potential, ensemble, 5, (0, ("it", atoms)))


def stepped(potential: Potential, ensemble: Ensemble, state: State, steps: int) -> list[float]:
    """Moves the structure; what is conserved at each step, or NaN."""
    state.atoms.calc = potential.calculator()
    moving = integrators.build(state.atoms, ensemble, state.random)
    integrators.restore(moving, state.integrator)
    values = []
    for _ in range(steps):
        moving.step()
        value = integrators.conserved(moving)
        values.append(np.nan if value is None else value)
    state.integrator = integrators.kept(moving)
    return values


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_on_to_the_bit(name: str, tmp_path: Path) -> None:
    ensemble = ensemble_of(name)
    potential, whole = started(ensemble)
    _, first = started(ensemble)
    values = stepped(potential, ensemble, whole, 12)
    stepped(potential, ensemble, first, 5)
    first.save(tmp_path / "state")
    second = State.load(tmp_path / "state")
    np.testing.assert_array_equal(stepped(potential, ensemble, second, 7), values[5:])
    for array in ("positions", "momenta"):
        np.testing.assert_array_equal(second.atoms.arrays[array], whole.atoms.arrays[array])
    np.testing.assert_array_equal(second.atoms.cell.array, whole.atoms.cell.array)
    assert second.random.bit_generator.state == whole.random.bit_generator.state
    beginning = started(ensemble)[1].atoms.cell.array
    assert np.any(whole.atoms.cell.array != beginning) == (ensemble.kind == "npt")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "langevin"])
def test_what_is_conserved_is_so_to_second_order(name: str) -> None:
    spreads = []
    for timestep in (0.1, 0.2):
        ensemble = ensemble_of(name, timestep)
        potential, state = started(ensemble)
        spreads.append(np.ptp(stepped(potential, ensemble, state, round(30 / timestep))))
    assert spreads[0] < 0.3 * spreads[1] < 3e-3


def test_langevin_conserves_nothing() -> None:
    ensemble = ensemble_of("langevin")
    potential, state = started(ensemble)
    assert np.isnan(stepped(potential, ensemble, state, 2)).all()


def test_bussi_needs_something_that_moves() -> None:
    ensemble = ensemble_of("bussi")
    atoms = ase.Atoms("OH", [[0, 0, 0], [0, 0, 1]], momenta=np.zeros((2, 3)))
    potential = Potential(harmonic.built(), "springs")
    with pytest.raises(InputError, match="it: bussi scales velocities, and nothing moves"):
        dynamics.begin(potential, ensemble, 0, (0, ("it", atoms)))
