"""``neupol vib`` as a user runs it, on springs whose frequencies are known."""

from __future__ import annotations

import json
import re
from pathlib import Path

import ase
import numpy as np
import pytest
from ase import units
from ase.thermochemistry import IdealGasThermo
from ase.vibrations import Infrared

from neupol_cli.calculator import NeupolCalculator
from neupol_cli.io import structures
from tests.simulation import harmonic
from tests.simulation.harmonic import CHARGES, DEBYE, LENGTH, STIFFNESS, saved

OXYGEN, HYDROGEN = 15.999, 1.008  # u, as ASE has them
REDUCED = OXYGEN * HYDROGEN / (OXYGEN + HYDROGEN)
HYDROXYL = f"2\ncharge=-1\nO 0 0 0\nH 0 {0.6 * LENGTH} {0.8 * LENGTH}\n"
HEIGHT = LENGTH * np.sqrt(3) / 2
TRIANGLE = f"3\n\nO 0 0 0\nH {LENGTH / 2} {HEIGHT} 0\nH {-LENGTH / 2} {HEIGHT} 0\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("springs") / "model.safetensors")


def vibrations(*words: object, **settings: object) -> dict:
    done = harmonic.neupol("vib", "-", *words, "--json", **settings)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_two_atoms_on_a_spring(model: Path) -> None:
    found = vibrations("-m", model, "--delta", "1e-4", input=HYDROXYL)
    hertz = np.sqrt(STIFFNESS * units._e * 1e20 / (REDUCED * units._amu)) / (2 * np.pi)
    (mode,) = [mode for mode in found["modes"] if not mode["rigid"]]
    assert mode["wavenumber_per_cm"] == pytest.approx(hertz / units._c / 100, rel=1e-7)
    assert not mode["imaginary"] and found["geometry"] == "linear"
    assert found["zero_point_eV"] == pytest.approx(hertz * units._hplanck / units._e / 2, rel=1e-7)
    slope = DEBYE * CHARGES[1]  # D/Angstrom: H goes one way and O, of opposite charge, the other
    intensity = 42.255 * slope**2 / REDUCED
    assert mode["intensity_km_per_mol"] == pytest.approx(intensity, rel=1e-6)
    assert [mode["rigid"] for mode in found["modes"]].count(True) == 5


class WithDipole(NeupolCalculator):
    """As ASE's Infrared wants it."""

    implemented_properties = (*NeupolCalculator.implemented_properties, "dipole")


def test_it_is_what_ase_does_by_hand(model: Path, tmp_path: Path) -> None:
    found = vibrations("-m", model, input=TRIANGLE)
    ((_, atoms),) = structures.read([_file(tmp_path / "t.xyz", TRIANGLE)])
    atoms.calc = WithDipole(harmonic.built())
    by_hand = Infrared(atoms, name=str(tmp_path / "ir"))
    by_hand.run()
    signs = [-1 if mode["imaginary"] else 1 for mode in found["modes"]]
    ours = [mode["wavenumber_per_cm"] for mode in found["modes"]] * np.array(signs)
    theirs = by_hand.get_frequencies()
    vibrating = slice(6, None)
    np.testing.assert_allclose(ours[vibrating], theirs[vibrating].real, rtol=0, atol=1e-8)
    zero_point = by_hand.get_energies()[vibrating].real.sum() / 2  # ASE counts turning, too
    assert found["zero_point_eV"] == pytest.approx(zero_point, abs=1e-12)
    intensities = [mode["intensity_km_per_mol"] for mode in found["modes"]]
    np.testing.assert_allclose(
        intensities[vibrating], 42.255 * by_hand.intensities[vibrating], rtol=0, atol=2e-6
    )  # ASE's debye is that of older constants, 8e-9 off


def _file(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_thermochemistry_is_ases(model: Path) -> None:
    conditions = ["--temperature", "400", "--pressure", "2.5", "--symmetry-number", "2"]
    found = vibrations("-m", model, *conditions, input=TRIANGLE)
    real = [mode["wavenumber_per_cm"] for mode in found["modes"] if not mode["rigid"]]
    atoms = ase.Atoms("OH2", [[0, 0, 0], [LENGTH / 2, HEIGHT, 0], [-LENGTH / 2, HEIGHT, 0]])
    gas = IdealGasThermo(
        [wavenumber * units.invcm for wavenumber in real], "nonlinear", found["energy_eV"],
        atoms, symmetrynumber=2, spin=0,
    )  # fmt: skip
    ours = found["ideal_gas"]
    assert ours["enthalpy"] == pytest.approx(gas.get_enthalpy(400, verbose=False), abs=1e-12)
    assert ours["entropy"] == pytest.approx(gas.get_entropy(400, 2.5e5, verbose=False), abs=1e-14)
    gibbs = gas.get_gibbs_energy(400, 2.5e5, verbose=False)
    assert ours["gibbs"] == pytest.approx(gibbs, abs=1e-12)


def test_an_unpaired_electron_counts(model: Path) -> None:
    doublet = HYDROXYL.replace("charge=-1", "charge=0")
    entropies = [
        vibrations("-m", model, input=text)["ideal_gas"]["entropy"] for text in (doublet, HYDROXYL)
    ]
    assert entropies[0] - entropies[1] == pytest.approx(units.kB * np.log(2), abs=1e-15)


def test_a_single_atom_only_flies(model: Path) -> None:
    found = vibrations("-m", model, input="1\nmultiplicity=3\nO 0 0 0\n")
    assert found["geometry"] == "monatomic" and found["zero_point_eV"] == 0.0
    assert [mode["rigid"] for mode in found["modes"]] == [True] * 3
    enthalpy = 2.5 * units.kB * 298.15
    assert found["ideal_gas"]["enthalpy"] == pytest.approx(enthalpy, abs=1e-12)


def test_held_atoms_do_not_vibrate(model: Path) -> None:
    head = "2\nProperties=species:S:1:pos:R:3:move_mask:L:"
    text = f"{head}1 charge=-1\nO 0 0 0 F\nH 0 0 {LENGTH} T\n"
    found = vibrations("-m", model, "--delta", "1e-4", input=text)
    assert "ideal_gas" not in found and len(found["modes"]) == 3
    hertz = np.sqrt(STIFFNESS * units._e * 1e20 / (HYDROGEN * units._amu)) / (2 * np.pi)
    assert found["modes"][2]["wavenumber_per_cm"] == pytest.approx(hertz / units._c / 100, rel=1e-7)
    text = f"{head}3 charge=-1\nO 0 0 0 F T T\nH 0 0 {LENGTH} T T T\n"
    done = harmonic.neupol("vib", "-", "-m", model, input=text)
    assert done.returncode == 65 and "holds parts of atoms" in done.stderr


def test_a_saddle_point_and_a_slope_are_told(model: Path) -> None:
    """Two springs in a line, the third pushed together from within: it would rather bend."""
    line = "3\n\nH 0 0 -0.73333333333\nO 0 0 0\nH 0 0 0.73333333333\n"
    done = harmonic.neupol("vib", "-", "-m", model, input=line)
    assert done.returncode == 0 and "no minimum: 2 of the frequencies are imaginary" in done.stderr
    assert len(re.findall(r"\d\.\d\di", done.stdout)) == 2 and "H2O, linear" in done.stdout
    stretched = HYDROXYL.replace(f"{0.8 * LENGTH}", "1.0")
    done = harmonic.neupol("vib", "-", "-m", model, "--strict", input=stretched)
    assert done.returncode == 65 and "not at a stationary point: a force of " in done.stderr


def test_modes_are_written(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "modes.extxyz"
    found = vibrations("-m", model, "--modes", output, input=TRIANGLE)
    frames = [atoms for _, atoms in structures.read([output])]
    real = [mode for mode in found["modes"] if not mode["rigid"]]
    assert [frame.info["mode"] for frame in frames] == [mode["mode"] for mode in real] == [7, 8, 9]
    for frame, mode in zip(frames, real, strict=True):
        assert frame.info["wavenumber_per_cm"] == mode["wavenumber_per_cm"]
        displacement = frame.arrays["displacement"]
        assert np.linalg.norm(displacement) == pytest.approx(1, abs=1e-7)
        drift = frame.get_masses() @ displacement
        np.testing.assert_allclose(drift, np.zeros(3), rtol=0, atol=1e-6)


def test_dipoles_of_another_model(model: Path, tmp_path: Path) -> None:
    alone = {"targets": ["energy"], "units": ["eV"], "outputs": []}
    energies = saved(tmp_path / "energies.safetensors", **alone)
    without = vibrations("-m", energies, input=HYDROXYL)
    assert "intensity_km_per_mol" not in without["modes"][0]
    with_them = vibrations("-m", energies, "--dipole", model, input=HYDROXYL)
    assert with_them["modes"] == vibrations("-m", model, input=HYDROXYL)["modes"]
    done = harmonic.neupol("vib", "-", "-m", model, "--dipole", energies, input=HYDROXYL)
    assert done.returncode == 65 and "intensities need a dipole; this model has" in done.stderr


def test_parts_that_do_not_see_each_other_have_no_frequency(tmp_path: Path) -> None:
    alone = {"targets": ["energy"], "units": ["eV"], "outputs": []}
    model = saved(tmp_path / "m.safetensors", cutoff=1.4, **alone)
    far = "2\n\nO 0 0 0\nO 0 0 30\n"
    done = harmonic.neupol("vib", "-", "-m", model, "--json", input=far)
    assert done.returncode == 0 and len(done.stderr.splitlines()) == 1
    found = json.loads(done.stdout, parse_constant=pytest.fail)
    assert found["doubts"] == ["no minimum: 1 of the frequencies are zero"]
    assert found["zero_point_eV"] == 0.0
    # A rotor without vibrations: H = E + (3/2 + 1 + 1) kT.
    thermal = found["ideal_gas"]["enthalpy"] - found["energy_eV"]
    assert thermal == pytest.approx(3.5 * units.kB * 298.15, abs=1e-12)


@pytest.mark.parametrize("words", [("--temperature", "inf"), ("--pressure", "inf")])
def test_conditions_are_numbers(model: Path, words: tuple[str, str]) -> None:
    done = harmonic.neupol("vib", "-", "-m", model, *words, input=TRIANGLE)
    assert done.returncode == 2 and words[0] in done.stderr and done.stdout == ""
