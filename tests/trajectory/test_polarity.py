"""What pulls at electrons beside paths: colours of atoms by charge and by electronegativity."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from neupol_cli.commands import trajectory as command
from neupol_cli.errors import InputError
from neupol_cli.trajectory import polarity
from neupol_cli.trajectory.paths import Trajectory
from neupol_cli.trajectory.skeleton import skeleton


def test_electronegativities_are_red_above_carbon() -> None:
    atoms = Atoms("CHOF", [[3.0 * k, 0, 0] for k in range(4)])
    found = polarity.finder("electronegativity", "cpu")("it", atoms)
    np.testing.assert_array_equal(found.values, [2.55, 2.20, 3.44, 3.98])
    carbon, hydrogen, oxygen, fluorine = found.colours
    assert np.ptp(carbon) == 0 and hydrogen[2] > hydrogen[0]
    assert 0 < oxygen[0] - oxygen[2] < fluorine[0] - fluorine[2]
    assert found.summary() == "2.20 to 3.98; red draws electrons"


def test_charges_are_those_of_the_bundled_density() -> None:
    """As `neupol charges examples/water.xyz` prints them, to the grid's and the geometry's."""
    found = polarity.finder("charges", "cpu")("water", molecule("H2O"))
    oxygen, *hydrogens = found.values
    assert oxygen == pytest.approx(-0.30, rel=0, abs=0.01)
    assert hydrogens == pytest.approx([-oxygen / 2] * 2, rel=0, abs=0.003)
    assert found.colours[0, 0] > 0.75 > 0.2 > found.colours[0, 2]
    assert (found.colours[1:, 2] > found.colours[1:, 0] + 0.1).all()


def test_small_charges_are_nearly_white() -> None:
    colours = polarity._coloured(np.array([-0.005, 0.005]), 0.05)
    assert np.ptp(colours, axis=1).max() < 0.1
    colours = polarity._coloured(np.array([-0.5, 0.05]), 0.05)
    assert np.ptp(colours[0]) > 0.6 and np.ptp(colours[1]) < 0.1


def test_what_is_not_known_is_said_and_not_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    def still(atoms: Atoms) -> Trajectory:
        return Trajectory("it", atoms, "m", ("U0",), atoms.positions[None], skeleton(atoms))

    both = [still(Atoms("He", [[0, 0, 0]])), still(molecule("H2O"))]
    kind = command.Beside.electronegativity
    with pytest.raises(InputError, match="it: there is no electronegativity of He here"):
        command._polarities(kind, both, "cpu", "fail")
    found = command._polarities(kind, both, "cpu", "skip")
    assert list(found) == [id(both[1].atoms)]
    assert "no electronegativity of He here (not drawn)" in capsys.readouterr().err
