"""``neupol data density``, as a user runs it."""

from __future__ import annotations

import gzip
import io
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from neupol_cli.datasets import density
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import hdf5, volumetric
from neupol_cli.io.units import HARTREE
from neupol_cli.io.volumetric import Volume, by_spacing
from neupol_cli.io.volumetric.h5 import volume_of
from tests.warm import neupol

VALENCE = {1: 1.0, 6: 4.0, 8: 6.0}


def volume(symbols: str, seed: int = 0, spin: bool = False) -> Volume:
    """Gaussian atoms of their valence electrons on a coarse grid."""
    generator = np.random.default_rng(seed)
    count = len(Atoms(symbols))
    atoms = Atoms(
        symbols, np.arange(count)[:, None] * [0.9, 0.2, 0.1] + generator.random((count, 3))
    )
    grid = by_spacing(atoms, 0.35, 2.5)
    values = np.zeros(grid.size)
    for number, position in zip(atoms.numbers, atoms.positions, strict=True):
        squared = ((grid.points() - position) ** 2).sum(axis=1)
        values += VALENCE[int(number)] * np.exp(-squared / 0.4) / (np.pi * 0.4) ** 1.5
    table = values.reshape(grid.shape)
    return Volume(atoms, grid, table, table * 0.1 if spin else None)


def cube_bytes(one: Volume, second_line: str | None = None) -> bytes:
    stream = io.BytesIO()
    volumetric.cube.write(stream, one, "title")
    lines = stream.getvalue().split(b"\n")
    if second_line is not None:
        lines[1] = second_line.encode()
    return b"\n".join(lines)


@pytest.fixture
def molecules() -> dict[str, Volume]:
    return {name: volume(name, seed) for seed, name in enumerate(("CO", "H2O", "CH4", "CH3OH"))}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_of_packed_cubes_becomes_one_file(molecules, mode: str, tmp_path: Path) -> None:
    pack = {
        "CO": (".cube", bytes),
        "H2O": (".cube.gz", gzip.compress),
        "CH4": (".cube.zz", zlib.compress),
    }
    path = tmp_path / ("set.tar" if mode == "w" else "set.tar.gz")
    with tarfile.open(path, mode) as archive:
        for index, (name, (suffix, packed)) in enumerate(pack.items()):
            notes = (
                f"electrons {molecules[name].electrons:.0f}, energy -1.5 Ha, dipole 0.1 0.2 0.3 D"
            )
            content = packed(cube_bytes(molecules[name], notes))
            member = tarfile.TarInfo(f"folder/mol_{index + 7:06d}{suffix}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        readme = tarfile.TarInfo("README.txt")
        archive.addfile(readme, io.BytesIO(b""))
    result = neupol("data", "density", path, "-o", "set.h5", "--partition", "1,1,1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "3 densities (train 1, valid 1, test 1)" in result.stderr
    assert result.stdout == ""
    dataset = hdf5.read(tmp_path / "set.h5")
    assert dataset.ids is not None and dataset.ids.tolist() == [7, 8, 9]
    assert dataset.targets["electrons"].values.tolist() == [10.0, 8.0, 8.0]
    assert dataset.targets["energy"].values[1] == pytest.approx(-1.5 * HARTREE, rel=0, abs=1e-12)
    assert dataset.targets["dipole"].unit == "D"
    assert {len(part) for part in dataset.splits["default"].values()} == {1}
    for index, name in enumerate(pack):
        found = volume_of(dataset, index)
        np.testing.assert_allclose(found.values, molecules[name].values, rtol=0, atol=1e-6)
        np.testing.assert_allclose(
            found.atoms.positions, molecules[name].atoms.positions, rtol=0, atol=1e-9
        )
        assert found.grid.same_as(molecules[name].grid, 1e-9)


def test_folders_chgcars_and_hdf5_files_go_in_too(molecules, tmp_path: Path) -> None:
    (tmp_path / "set" / "deep").mkdir(parents=True)
    volumetric.write(tmp_path / "set" / "b.cube", molecules["CO"], "t")
    volumetric.write(tmp_path / "set" / "deep" / "CHGCAR", molecules["H2O"], "t")
    (tmp_path / "set" / "notes.txt").write_text("nothing")
    volumetric.write(tmp_path / "one.h5", molecules["CH4"], "t")
    result = neupol("data", "density", "set", "one.h5", "-o", "all.h5", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    dataset = hdf5.read(tmp_path / "all.h5")
    assert [dataset.numbers[dataset.offsets[i]] for i in range(3)] == [6, 1, 6]
    # The CHGCAR is periodic, in the molecule's box, the cubes are not.
    assert dataset.pbc is not None and dataset.pbc.all(axis=1).tolist() == [False, True, False]
    sums = [volume_of(dataset, i).electrons for i in range(3)]
    np.testing.assert_allclose(sums, [10.0, 8.0, 8.0], rtol=0, atol=0.05)


def test_a_bad_file_is_reported_and_the_rest_goes_on(molecules, tmp_path: Path) -> None:
    good = cube_bytes(molecules["CO"])
    (tmp_path / "a.cube").write_bytes(good)
    (tmp_path / "b.cube").write_bytes(good[: len(good) // 2])
    wrong_unit = Volume(molecules["CO"].atoms, molecules["CO"].grid, molecules["CO"].values * 6.748)
    (tmp_path / "c.cube").write_bytes(cube_bytes(wrong_unit, "no notes"))
    (tmp_path / "d.cube").write_bytes(cube_bytes(molecules["CO"], "electrons 20"))
    files = ["a.cube", "b.cube", "c.cube", "d.cube"]
    result = neupol("data", "density", *files, "-o", "set.h5", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "1 densities" in result.stderr and "3 could not be used" in result.stderr
    assert "b.cube:" in result.stderr and "truncated" in result.stderr
    assert "67." in result.stderr and "10 (valence) to 14 (all)" in result.stderr
    assert "it says 20" in result.stderr
    strict = neupol("data", "density", *files, "-o", "no.h5", "--on-error", "fail", cwd=tmp_path)
    assert strict.returncode == 65 and strict.stderr.startswith("neupol: b.cube:")
    assert strict.stderr.count("\n") == 1
    assert not (tmp_path / "no.h5").exists() and not list(tmp_path.glob("*.partial"))


def test_a_structure_that_is_refused_elsewhere_is_refused_here(molecules, tmp_path: Path) -> None:
    one = molecules["H2O"]
    atoms = one.atoms.copy()
    atoms.positions[1] = atoms.positions[0]
    spot = Volume(atoms, one.grid, one.values)
    (tmp_path / "spot.cube").write_bytes(cube_bytes(spot))
    volumetric.h5.write(tmp_path / "spot.h5", [spot], "t")
    for name, label in (("spot.cube", r"spot\.cube"), ("spot.h5", r"spot\.h5\[0\]")):
        with pytest.raises(InputError, match=f"{label}: atoms 1 and 2 are on one spot"):
            density.collect([tmp_path / name], tmp_path / "set.h5", skip=False)
        assert not (tmp_path / "set.h5").exists()


def test_damaged_tars_are_refused(molecules, tmp_path: Path) -> None:
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as archive:
        for index in range(3):
            content = cube_bytes(molecules["CO"])
            member = tarfile.TarInfo(f"{index}.cube")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    whole = path.read_bytes()
    for cut in (len(whole) // 2, len(cube_bytes(molecules["CO"])) + 900):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"set\.tar"):
            density.collect([path], tmp_path / "set.h5", skip=False)
        assert not (tmp_path / "set.h5").exists()


def test_what_holds_no_density_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no density in it") as refusal:
        density.collect([tmp_path / "empty"], tmp_path / "set.h5")
    readable = [item for item in volumetric.FORMATS if item.readable]
    assert all((*item.suffixes, item.name)[0] in str(refusal.value) for item in readable)
    assert ".xsf" in str(refusal.value)
    with pytest.raises(InputError, match="no such file"):
        density.collect([tmp_path / "nowhere.tar"], tmp_path / "set.h5")
    (tmp_path / "a.log").write_text("x")
    with pytest.raises(UsageError, match=r"must end in \.cube"):
        density.collect([tmp_path / "a.log"], tmp_path / "set.h5")
    for name in ("nowhere", "a.txt"):  # a list of lists has no end
        (tmp_path / "a.txt").write_text(name)
        with pytest.raises(InputError, match=f"names '{name}', and there is no density"):
            density.collect([tmp_path / "a.txt"], tmp_path / "set.h5")


def test_lz4_without_its_package_says_what_to_do(molecules, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "a.CHGCAR.lz4").write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "lz4", None)
    monkeypatch.setitem(sys.modules, "lz4.frame", None)
    with pytest.raises(UsageError, match="pip install lz4"):
        density.collect([tmp_path / "a.CHGCAR.lz4"], tmp_path / "set.h5")


def test_spin_is_kept_when_asked_for(tmp_path: Path) -> None:
    volumetric.write(tmp_path / "a.h5", volume("H2O", spin=True), "t")
    density.collect([tmp_path / "a.h5"], tmp_path / "set.h5", choices=density.Choices(spin=True))
    found = volume_of(hdf5.read(tmp_path / "set.h5"), 0)
    assert found.spin is not None
    np.testing.assert_allclose(found.spin, found.values * 0.1, rtol=0, atol=1e-6)


def test_a_spin_density_that_is_not_there_is_not_zero(molecules, tmp_path: Path) -> None:
    (tmp_path / "a.cube").write_bytes(cube_bytes(molecules["CO"]))
    with pytest.raises(InputError, match=r"a\.cube: holds no spin density for --spin"):
        density.collect(
            [tmp_path / "a.cube"], tmp_path / "s.h5", skip=False, choices=density.Choices(spin=True)
        )


def test_reasons_are_said_where_nothing_could_be_used(tmp_path: Path) -> None:
    (tmp_path / "bad.CHGCAR").write_text("no density\n1.0\n")
    (tmp_path / "v.cube").write_bytes(cube_bytes(volume("H2O")).replace(b"title", b"ELF", 1))
    done = neupol("data", "density", "bad.CHGCAR", "v.cube", "-o", "s.h5", cwd=tmp_path)
    assert done.returncode == 65
    first, second, last = done.stderr.splitlines()
    assert first.startswith("neupol: bad.CHGCAR:3: the file ends") and "(skipped)" in first
    assert "v.cube: is no electron density: its title says 'ELF'; --accept takes it" in second
    assert "none of 2 densities could be used" in last
    choices = density.Choices(accept=True)
    assert density.collect([tmp_path / "v.cube"], tmp_path / "s.h5", choices=choices).read == 1


def test_periodicity_is_told_or_taken_from_the_user(molecules, tmp_path: Path) -> None:
    one = molecules["CO"]
    text = cube_bytes(one).split(b"\n", 2)[2]
    (tmp_path / "a.cube").write_bytes(b"made by PWScf\nsecond line\n" + text)
    for pbc, periodic in ((None, True), (False, False), (True, True)):
        choices = density.Choices(pbc=pbc)
        report = density.collect([tmp_path / "a.cube"], tmp_path / "s.h5", choices=choices)
        stored = hdf5.read(tmp_path / "s.h5")
        assert (stored.pbc is not None and stored.pbc.all()) == periodic
        assert report.guessed == ({"periodic": [str(tmp_path / "a.cube")]} if pbc is None else {})


def test_valences_are_found_from_electron_counts() -> None:
    numbers = [np.array(Atoms(name).numbers) for name in ("CH4", "H2O", "CO2", "CH3OH")]
    counts = np.array([8.01, 8.0, 15.97, 14.0])
    assert density.valence(numbers, counts) == VALENCE
    assert density.valence(numbers[:1], counts[:1]) == {}
    assert density.valence(numbers, np.array([9.0, 3.0, 30.0, 2.0])) == {}


def test_default_split_holds_out_some_of_any_set() -> None:
    assert density.default_split(590) == (500, 40, 50)
    assert density.default_split(1) == (1, 0, 0)
    assert density.default_split(100_000) == (99_910, 40, 50)
    assert density.default_split(10) == (8, 1, 1)
