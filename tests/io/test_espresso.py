"""Quantum ESPRESSO's charge-density.dat, read by code apart from neupol's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from neupol_cli.errors import UsageError
from neupol_cli.io import volumetric
from neupol_cli.io.units import BOHR
from neupol_cli.io.volumetric import Grid
from neupol_cli.io.volumetric.espresso import largest, plane_waves, title_of
from tests.commands import gaussians
from tests.commands.gaussians import run
from tests.volumes import CELL, SHAPE, crystal, molecule

NAME = "charge-density.dat"


def records(path: Path) -> Iterator[bytes]:
    content, start = path.read_bytes(), 0
    while start < len(content):
        length = int.from_bytes(content[start : start + 4], "little")
        end = start + 4 + length
        assert content[end : end + 4] == content[start : start + 4]
        yield content[start + 4 : end]
        start = end + 4


@pytest.mark.parametrize("spin", [False, True])
def test_the_waves_of_a_file_add_up_to_the_density(tmp_path: Path, spin: bool) -> None:
    volume = crystal(spin)
    volumetric.write(tmp_path / NAME, volume, "a title")
    counts, vectors, indices, *waves, title = records(tmp_path / NAME)
    assert title == b"a title"
    millers = np.frombuffer(indices, "<i4").reshape(-1, 3)
    np.testing.assert_array_equal(np.frombuffer(counts, "<i4"), [0, len(millers), 1 + spin])
    reciprocal = np.frombuffer(vectors, "<f8").reshape(3, 3)
    products = CELL / BOHR @ reciprocal.T
    np.testing.assert_allclose(products, 2 * np.pi * np.eye(3), rtol=0, atol=1e-13)
    points = volume.grid.points() / BOHR
    phases = np.exp(1j * points @ (millers @ reciprocal).T)
    channels = [volume.values] if volume.spin is None else [volume.values, volume.spin]
    for wave, wanted in zip(waves, channels, strict=True):
        found = (phases @ np.frombuffer(wave, "<c16")).reshape(SHAPE) / BOHR**3
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("edges", [CELL, np.diag([4.0, 4.0, 4.0]), np.diag([3.0, 4.0, 5.0])])
@pytest.mark.parametrize("shape", [SHAPE, (8, 8, 8)])
def test_waves_come_by_length_and_where_that_is_the_same_by_index(edges, shape) -> None:
    grid = Grid(np.zeros(3), edges / np.array(shape)[:, None], shape)
    reciprocal = 2 * np.pi * np.linalg.inv(edges / BOHR).T
    all_of_them = [
        (round(float((np.array(m) @ reciprocal) @ (np.array(m) @ reciprocal)), 9), m)
        for m in product(*[range(-n, n + 1) for n in shape])
    ]
    wanted = [m for squared, m in sorted(all_of_them) if squared < largest(grid) ** 2 - 1e-8]
    np.testing.assert_array_equal(plane_waves(grid), wanted)
    assert max(abs(np.array(wanted)).max(axis=0) * 2 - np.array(shape)) < 0  # the grid holds them


def test_the_sphere_of_waves_is_that_of_pw_x() -> None:
    """A box of 12 bohr with ecutrho = 240 Ry has 54336 of G and -G in pw.x 6.7, on a grid of 60."""
    grid = Grid(np.zeros(3), np.eye(3) * 0.2 * BOHR, (60, 60, 60))
    assert largest(grid) == pytest.approx(2 * np.pi * 30 / 12, rel=0, abs=1e-12)
    squared = ((2 * np.pi / 12 * plane_waves(grid)) ** 2).sum(axis=1)
    assert (squared <= 240.0).sum() == 2 * 54336 - 1
    assert (np.diff(squared) > -1e-9).all()


def test_what_it_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="knows atoms in a cell"):
        volumetric.write(tmp_path / NAME, molecule(), "t")
    volume = crystal()
    half = Grid(np.zeros(3), volume.grid.step / 2, SHAPE)
    with pytest.raises(UsageError, match="does not fill the cell from its corner"):
        volumetric.write(tmp_path / NAME, replace(volume, grid=half), "t")
    moved = Grid(np.full(3, 0.1), volume.grid.step, SHAPE)
    with pytest.raises(UsageError, match="does not fill the cell from its corner"):
        volumetric.write(tmp_path / NAME, replace(volume, grid=moved), "t")
    with pytest.raises(UsageError, match="holds densities only"):
        volumetric.write(tmp_path / NAME, replace(volume, unit="1"), "t")
    assert not list(tmp_path.iterdir())


def test_it_is_written_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "save_charge-density.dat"
    volumetric.write(path, crystal(), "t")
    with pytest.raises(UsageError, match="can be written, not read; give a cube"):
        volumetric.read(path)
    with pytest.raises(UsageError, match="not packed once more"):
        volumetric.written_as("charge-density.dat.gz")
    with pytest.raises(UsageError, match="the name must end in"):
        volumetric.written_as("density.dat")


def test_the_command_says_what_pw_x_wants(monkeypatch, tmp_path: Path, capsys) -> None:
    gaussians.in_place(monkeypatch, tmp_path)
    Path("cell.xyz").write_text('2\nLattice="6 0 0 0 6 0 0 0 6" pbc="T T T"\nO 3 3 3\nC 3 3 4.1\n')
    Path("x.save").mkdir()
    output = "x.save/charge-density.dat"
    code, _, err = run(capsys, "cell.xyz", "-o", output, "--grid", "48,48,48", "--normalize")
    assert code == 0 and "plane waves up to ecutrho = 176.9 Ry" in err
    assert "startingpot = 'file'" in err and "diago_thr_init = 1e-4" in err
    *_, waves, title = records(Path(output))
    assert b'electron density by neupol provenance={"neupol": ' in title
    assert np.frombuffer(waves, "<c16")[0] * (6 / BOHR) ** 3 == pytest.approx(10, rel=0, abs=1e-6)
    code, _, err = run(capsys, "water.xyz", "-o", output, "--spacing", "0.5")
    assert code == 2 and "give them one (extended xyz, POSCAR)" in err


def test_a_file_without_a_last_record_of_text_has_no_title(tmp_path: Path) -> None:
    path = tmp_path / NAME
    for content in (b"", b"1234567", b"\x00" * 12, b"\xff" * 16):
        path.write_bytes(content)
        assert title_of(path) == ""
    volumetric.write(path, crystal(), "a title")
    assert title_of(path) == "a title"
    path.write_bytes(path.read_bytes()[: -len("a title") - 8])
    assert title_of(path) == ""
