"""Crystals by CP2K: its words, what it can end in, and a crystal where it is installed."""

from __future__ import annotations

import shutil
import signal
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from neupol_cli.datasets import cp2k, cp2k_text
from neupol_cli.datasets.solution import Killed, NotConverged, OutOfTime
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io.units import BOHR, HARTREE

HYDROGEN = Atoms("H2", [[0, 0, 0], [0, 0, 0.9]], cell=[3.0, 3.0, 3.6], pbc=True)
BASES = """\
H DZVP-MOLOPT-PBE-GTH-q1 DZVP-MOLOPT-GGA-GTH-q1
Mg DZVP-MOLOPT-PBE-GTH-q2
Mg DZVP-MOLOPT-PBE-GTH-q10
C TZVP-MOLOPT-PBE-GTH-q4
Ga DZVP-MOLOPT-PBE-GTH-q13
"""
POTENTIALS = "H GTH-PBE-q1 GTH-GGA-q1\nMg GTH-PBE-q10\nC GTH-PBE-q4\nGa GTH-PBE-q3\n"
ENERGY = " ENERGY| Total FORCE_EVAL ( QS ) energy [{}]:  {:26.15f}\n"
CONVERGED = "  *** SCF run converged in    10 steps ***\n"
FORCES = """\
 ATOMIC FORCES in [a.u.]

 # Atom   Kind   Element          X              Y              Z
      1      1      H           0.01000000    -0.02000000     0.03000000
      2      1      H          -0.01000000     0.02000000    -0.03000000
 SUM OF ATOMIC FORCES           0.00000000     0.00000000     0.00000000     0.00000000
"""
LATER = """\
 FORCES| Atomic forces [hartree/bohr]
 FORCES| Atom     x               y               z               |f|
 FORCES|      1  1.00000000E-02 -2.00000000E-02  3.00000000E-02  3.74165739E-02
 FORCES|      2 -1.00000000E-02  2.00000000E-02 -3.00000000E-02  3.74165739E-02
 FORCES| Sum     0.00000000E+00  0.00000000E+00  0.00000000E+00  0.00000000E+00
"""
ABORT = """\
 *******************************************************************************
 *   ___                                                                       *
 *  /   \\                                                                      *
 * [ABORT]                                                                     *
 *  \\___/        The number of electrons                                       *
 *    |          is odd                                                        *
 *  O/|                                                                        *
 * /| |                                                                        *
 * / \\                                                            qs_env.F:123 *
 *******************************************************************************
"""


@pytest.mark.parametrize(("forces", "unit"), [(FORCES, "a.u."), (LATER, "hartree")])
def test_energies_and_forces_of_both_generations(forces: str, unit: str) -> None:
    printed = "1.0\n" + ENERGY.format(unit, -1.25) + forces + "\n 7 9 H 1.0 1.0 1.0 end\n"
    assert cp2k_text.energy(printed, "H2") == pytest.approx(-1.25 * HARTREE, rel=0, abs=1e-12)
    expected = np.array([[0.01, -0.02, 0.03], [-0.01, 0.02, -0.03]]) * HARTREE / BOHR
    found = cp2k_text.forces(printed, HYDROGEN, "H2")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_numbers_that_are_not_there_are_no_zeros() -> None:
    with pytest.raises(InputError, match="H2: CP2K's output has no total energy"):
        cp2k_text.energy(FORCES, "H2")
    with pytest.raises(InputError, match="1 forces of 2 atoms"):
        cp2k_text.forces(FORCES.replace("-0.01000000", "**********"), HYDROGEN, "H2")


def test_an_abort_is_read_without_its_picture() -> None:
    expected = "The number of electrons is odd qs_env.F:123"
    assert cp2k_text.complaint("before\n" + ABORT + "after\n") == expected
    assert cp2k_text.complaint(CONVERGED) == ""


def test_an_element_has_the_most_electrons_that_basis_and_potential_agree_on() -> None:
    assert cp2k_text.valence_of(BASES, POTENTIALS) == {"H": 1, "Mg": 10}


def test_kpoints_are_as_dense_in_every_cell() -> None:
    assert cp2k_text.kpoint_mesh(HYDROGEN, 0.5) == (5, 5, 4)
    assert cp2k_text.kpoint_mesh(HYDROGEN.repeat((2, 1, 1)), 0.5) == (3, 5, 4)
    assert cp2k_text.kpoint_mesh(HYDROGEN, 9.0) == (1, 1, 1)


def test_what_an_input_says() -> None:
    settings = cp2k_text.Settings(cutoff=123.0, smearing=300.0, kspacing=0.5)
    text = cp2k_text.crystal_input(HYDROGEN, settings, {"H": 1}, True)
    for words in ("CUTOFF 123.0", "[K] 300", "MONKHORST-PACK 5 5 4", "STRIDE 1 1 1",
                  "POTENTIAL GTH-PBE-q1", "H 0.0000000000 0.0000000000 0.9000000000"):  # fmt: skip
        assert words in text
    cold = cp2k_text.Settings(smearing=0.0)
    assert "SMEAR" not in cp2k_text.crystal_input(HYDROGEN, cold, {"H": 1}, False)
    assert "CUBE" not in cp2k_text.crystal_input(HYDROGEN, cold, {"H": 1}, False)
    assert "MULTIPLICITY 3" in cp2k_text.atom_input(8, 3, cold, {"O": 6})


def test_a_grid_is_thinned_by_divisors_to_the_step_that_was_asked_for() -> None:
    values = np.arange(30.0 * 20 * 18).reshape(30, 20, 18)
    found = cp2k.thinned(HYDROGEN, values, 0.31)  # steps of 0.1, 0.15 and 0.2
    assert found.values.shape == (10, 10, 18)
    np.testing.assert_array_equal(found.values, values[::3, ::2])
    np.testing.assert_allclose(found.grid.step.sum(0), [0.3, 0.3, 0.2], rtol=0, atol=1e-12)
    assert cp2k.thinned(HYDROGEN, values, 0.01).values.shape == values.shape


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a program on the PATH that stands in for CP2K: it does what a line of Python says."""

    def make(line: str) -> cp2k.CP2K:
        folder, data = tmp_path / "bin", tmp_path / "share" / "cp2k"
        folder.mkdir(exist_ok=True)
        data.mkdir(parents=True, exist_ok=True)
        (data / cp2k_text.BASES).write_text(BASES)
        (data / cp2k_text.POTENTIALS).write_text(POTENTIALS)
        program = folder / "cp2k.psmp"
        program.write_text(
            f"#!{sys.executable}\nimport os, sys, time\n"
            "if '--version' in sys.argv:\n    print(' CP2K version 2099.1')\n"
            f"else:\n    {line}\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.delenv("CP2K_DATA_DIR", raising=False)
        return cp2k.CP2K(cp2k_text.Settings())

    return make


def test_an_answer_of_a_stand_in(stand_in) -> None:
    printed = CONVERGED + ENERGY.format("a.u.", -1.25) + FORCES
    engine = stand_in(f"print({printed!r})")
    found = engine.solve(HYDROGEN, "H2", False, np.inf)
    assert engine.source.startswith("CP2K 2099.1, PBE / GTH-PBE / DZVP-MOLOPT-PBE-GTH, 280 Ry")
    assert (found.electrons, found.valence, found.dipole) == (2.0, {1: 1.0}, None)
    assert found.energy == pytest.approx(-1.25 * HARTREE, rel=0, abs=1e-12)
    with pytest.raises(InputError, match="H2: CP2K wrote 0 cubes"):
        engine.solve(HYDROGEN, "H2", True, np.inf)


FAILURES = [
    (f"print({'SCF run NOT converged' + FORCES!r})", NotConverged, "did not converge"),
    (f"print({ABORT!r}); sys.exit(1)", InputError, "H2: CP2K: The number of electrons is odd"),
    ("sys.exit(3)", InputError, "H2: CP2K: exit code 3"),
    (f"print({FORCES!r})", InputError, "H2: CP2K: exit code 0"),
    (f"os.kill(os.getpid(), {signal.SIGKILL:d})", Killed, "killed by signal 9"),
    ("time.sleep(60)", OutOfTime, "took longer"),
]


@pytest.mark.parametrize(("line", "kind", "message"), FAILURES)
def test_every_way_to_fail_is_told(stand_in, line: str, kind: type, message: str) -> None:
    import time

    engine = stand_in(line)
    until = time.monotonic() + 0.5 if kind is OutOfTime else np.inf
    with pytest.raises(kind, match=message) as caught:
        engine.solve(HYDROGEN, "H2", False, until)
    assert caught.type is kind


def test_what_is_not_for_cp2k_is_refused(stand_in) -> None:
    engine = stand_in("sys.exit(1)")
    with pytest.raises(InputError, match="--engine pyscf"):
        engine.solve(Atoms("H2", cell=[3, 3, 3], pbc=[True, True, False]), "H2", True, np.inf)
    charged, carbon = HYDROGEN.copy(), HYDROGEN.copy()
    charged.info["charge"] = 1
    with pytest.raises(InputError, match="states a charge or a multiplicity"):
        engine.solve(charged, "H2", True, np.inf)
    carbon.symbols[0] = "C"
    with pytest.raises(InputError, match="no basis set DZVP-MOLOPT-PBE-GTH of C"):
        engine.solve(carbon, "CH", True, np.inf)


def test_a_program_or_data_that_is_missing_is_a_line(
    stand_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in("sys.exit(1)")
    (tmp_path / "share" / "cp2k" / cp2k_text.BASES).unlink()
    with pytest.raises(UsageError, match="set CP2K_DATA_DIR"):
        cp2k.CP2K(cp2k_text.Settings())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="CP2K is not installed"):
        cp2k.CP2K(cp2k_text.Settings())


@pytest.mark.skipif(
    not any(map(shutil.which, cp2k.PROGRAMS)), reason="CP2K is not installed on this machine"
)
def test_hydrogens_density_energy_and_forces_agree() -> None:
    settings = cp2k_text.Settings(cutoff=150.0, kspacing=3.0, smearing=0.0, spacing=0.25)
    engine, step = cp2k.CP2K(settings), 0.01
    found = engine.solve(HYDROGEN, "H2", True, np.inf)
    assert found.volume is not None
    assert found.volume.electrons == pytest.approx(2.0, rel=0, abs=0.01)
    peak = np.unravel_index(found.volume.values.argmax(), found.volume.grid.shape)
    place = np.array(peak) @ found.volume.grid.step
    assert min(np.abs(place - at).max() for at in (*HYDROGEN.positions, [0, 0, 3.6])) < 0.3
    energies = []
    for sign in (1, -1):
        moved = HYDROGEN.copy()
        moved.positions[1, 2] += sign * step
        energies.append(engine.solve(moved, "H2", False, np.inf).energy)
    slope = -(energies[0] - energies[1]) / (2 * step)
    assert found.forces[1, 2] == pytest.approx(slope, rel=0, abs=0.05) and abs(slope) > 0.5
