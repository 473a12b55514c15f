"""A crystal's cell by PySCF, for the comparison of cost."""

from __future__ import annotations

import time

import pytest
from ase import Atoms
from ase.build import bulk

from neupol_cli.datasets import dft
from neupol_cli.errors import InputError, TemporaryError
from neupol_cli.runtime import cases, job
from neupol_cli.runtime.cases import Conditions

pytest.importorskip("pyscf")
SETTINGS = dft.Settings(basis="gth-szv", spacing=0.15)
HELIUM = Atoms("He", cell=[2.6, 2.6, 2.6], pbc=True)


def test_the_density_of_a_cell_holds_its_electrons():
    from neupol_cli.datasets import dft_cells

    found = dft_cells.solve(HELIUM, SETTINGS, "helium")
    assert found.electrons == pytest.approx(2.0, abs=5e-3)
    assert found.grid.shape == (18, 18, 18)
    # GTH keeps both 1s electrons, and they are densest on the nucleus.
    assert found.values.max() == found.values[0, 0, 0]
    assert found.notes["electrons"] == 2.0


def test_what_cannot_be_done_is_said():
    from neupol_cli.datasets import dft_cells

    with pytest.raises(InputError, match="helium: is not periodic"):
        dft_cells.solve(Atoms("He"), SETTINGS, "helium")
    with pytest.raises(InputError, match="1 valence electrons, an odd number"):
        dft_cells.solve(Atoms("H", cell=[3, 3, 3], pbc=True), SETTINGS, "hydrogen")
    with pytest.raises(InputError, match="uranium: PySCF: "):
        dft_cells.solve(Atoms("U", cell=[3, 3, 3], pbc=True), SETTINGS, "uranium")


def test_a_cell_that_takes_too_long_is_given_up():
    system = cases.supercells(bulk("C", "diamond", a=3.567), "diamond", (1,))
    reference = cases.pyscf(system, 0.5)
    assert "Gamma point" in reference.notes[0]
    begun = time.monotonic()
    report = job.Series(reference, Conditions("cpu", 1 << 30, 0.5), 1).run(0.05)
    assert not report["points"]
    assert [each["atoms"] for each in report["skipped"]] == [2]
    assert time.monotonic() - begun < 60
    with pytest.raises(TemporaryError, match="took longer"):
        dft.in_time(time.monotonic() - 1)({})
