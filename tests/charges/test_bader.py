"""Bader's atoms, beside baderkit called by hand on the same densities."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from neupol_cli import registry
from neupol_cli.charges import bader, job, pieces
from neupol_cli.charges.free_atoms import free_atom
from neupol_cli.charges.pieces import Deformation
from neupol_cli.density.on_grid import predict
from neupol_cli.errors import UsageError
from neupol_cli.io import volumetric
from neupol_cli.io.volumetric import Volume, by_counts
from tests.warm import neupol

WATER = molecule("H2O")


def test_a_missing_package_is_said_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "baderkit", None)
    with pytest.raises(UsageError, match=r"Bader needs baderkit: pip install 'neupol\[bader\]'"):
        job.parse_schemes("hirshfeld,bader")


def deformation(atoms: Atoms) -> tuple[Volume, Deformation]:
    """Of the bundled model's density; on as many points along every axis, as baderkit takes the
    axes of other cubes for each other."""
    grid = by_counts(atoms, (84, 84, 84), 3.6)
    model = registry.load_density("density")
    volume = predict(model, atoms, grid, 1 << 30, lambda done: None).volume
    return volume, pieces.deformation(volume, [free_atom(int(z), True) for z in atoms.numbers])


def test_what_climbs_has_all_electrons_and_its_maxima_at_nuclei() -> None:
    volume, found = deformation(WATER)
    values = bader.whole(found, volume.values.astype(float))
    places = np.rint((WATER.positions - volume.grid.origin) / volume.grid.spacing).astype(int)
    for place in places:
        around = values[tuple(slice(k - 2, k + 3) for k in place)]
        assert around.argmax() == 62  # the middle one of 125
    core = values - volume.values
    far = np.linalg.norm(volume.grid.points()[:, None] - WATER.positions, axis=2).min(axis=1) > 2
    assert np.abs(core.ravel()[far]).max() < 0.01 < core.max()


@pytest.mark.parametrize("name", ["H2O", "HCN"])
def test_charges_and_volumes_are_baderkits(name: str, tmp_path: Path) -> None:
    """But for the thin air around a molecule, which goes to the nearest atom."""
    baderkit = pytest.importorskip("baderkit")
    atoms = molecule(name)
    volume, found = deformation(atoms)
    whole = Volume(atoms, volume.grid, bader.whole(found, volume.values.astype(float)))
    for file, content in (("rho.cube", volume), ("whole.cube", whole)):
        volumetric.write(tmp_path / file, content, "t")
    with redirect_stdout(io.StringIO()):
        rho, climbed = (
            baderkit.Grid.from_cube(tmp_path / file) for file in ("rho.cube", "whole.cube")
        )
        # It takes a density below 1 e/bohr^3 for an ELF, and its numbers for the right ones.
        rho.total = rho.total * (volume.electrons / (rho.total.sum() / rho.ngridpts))
        by_hand = baderkit.Bader(
            charge_grid=rho, total_charge_grid=climbed, reference_grid=climbed, method="weight"
        )
        electrons, labels, thin = by_hand.atom_charges, by_hand.atom_labels, by_hand.vacuum_charge
    result = bader.bader(found)
    assert result.doubts == []
    more = result.moments.electrons - electrons
    assert 0 < thin < 0.03 and more.min() > -1e-3
    assert more.sum() == pytest.approx(thin, rel=0, abs=1e-3)
    assert result.moments.electrons.sum() == pytest.approx(volume.electrons, rel=0, abs=1e-3)
    dense = volume.values > bader.SURFACE
    counts = np.array([(dense & (labels == k)).sum() for k in range(len(atoms))])
    np.testing.assert_allclose(result.volumes, counts * volume.grid.element, rtol=0.01, atol=0)


@pytest.mark.parametrize("count", [24, 36])
def test_what_a_coarse_grid_misses_is_its_atoms(count: int) -> None:
    pytest.importorskip("baderkit")
    grid = by_counts(WATER, (count,) * 3, 3.6)
    free = [free_atom(int(z), True) for z in WATER.numbers]
    values = pieces.promolecule(WATER, grid, free)
    found = pieces.deformation(Volume(WATER, grid, values), free)
    assert abs(values.sum() * grid.element - 8) > 0.01
    assert bader.bader(found).moments.electrons.sum() == pytest.approx(8, rel=0, abs=1e-6)


def test_cores_stay_with_their_nuclei() -> None:
    """Of valence electrons and of all, the same charges."""
    pytest.importorskip("baderkit")
    volume, found = deformation(WATER)
    every = [free_atom(int(z), False) for z in WATER.numbers]
    values = found.values + pieces.promolecule(WATER, volume.grid, every)
    all_electrons = pieces.deformation(Volume(WATER, volume.grid, values), every)
    one, other = bader.bader(found).moments, bader.bader(all_electrons).moments
    np.testing.assert_allclose(other.electrons - one.electrons, [2, 0, 0], rtol=0, atol=0.02)


def test_a_hydrogen_without_a_maximum_is_doubted(tmp_path: Path) -> None:
    pytest.importorskip("baderkit")
    (tmp_path / "w.xyz").write_text("3\n\nO 0 0 .1173\nH 0 .7572 -.4692\nH 0 -.7572 -.4692\n")
    call = ("charges", "w.xyz", "--scheme", "hirshfeld,bader", "--spacing")
    coarse = neupol(*call, "0.2", cwd=tmp_path)
    assert coarse.returncode == 0, coarse.stderr
    assert "doubtful: no maximum of the density at atom 2 (H), 3 (H): a finer" in coarse.stderr
    assert "Bader, sum" in coarse.stdout and "volume (Angstrom^3)" in coarse.stdout
    assert neupol(*call, "0.2", "--strict", cwd=tmp_path).returncode == 65
    fine = neupol(*call, "0.1", "--json", cwd=tmp_path)
    assert fine.returncode == 0 and "doubtful" not in fine.stderr
    answer = json.loads(fine.stdout)
    charges = answer["schemes"]["bader"]["charges_e"]
    np.testing.assert_allclose(charges, [-1.1, 0.55, 0.55], rtol=0, atol=0.05)
    assert len(answer["schemes"]["bader"]["volumes_Angstrom3"]) == 3 and not answer["doubts"]
