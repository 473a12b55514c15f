"""NumPy's format: exact, whole or refused, and never unpickled."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neupol_cli import app
from neupol_cli.errors import InputError
from neupol_cli.io import volumetric
from neupol_cli.io.units import BOHR
from neupol_cli.io.volumetric import Volume
from tests.volumes import crystal, molecule, parse, text_of


def arrays(volume: Volume, **others: Any) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(text_of(volume, "npz"))) as content:
        return dict(content) | {name: np.asarray(value) for name, value in others.items()}


def packed(content: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **content)
    return stream.getvalue()


@pytest.mark.parametrize("make", [lambda: crystal(spin=True), molecule])
def test_every_number_comes_back_exactly(make, tmp_path: Path) -> None:
    volume = make()
    volumetric.write(tmp_path / "a.npz", volume, "a title")
    back = volumetric.read(tmp_path / "a.npz")
    np.testing.assert_array_equal(back.values, volume.values)
    np.testing.assert_array_equal(back.grid.origin, volume.grid.origin)
    np.testing.assert_array_equal(back.grid.step, volume.grid.step)
    assert back.atoms == volume.atoms and back.values.dtype == np.float64
    assert (back.spin is None) == (volume.spin is None)
    if volume.spin is not None:
        np.testing.assert_array_equal(back.spin, volume.spin)
    assert back.notes == {"title": "a title", "electrons": volume.electrons}
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_what_numpy_packed_is_read_too_with_its_unit(tmp_path: Path) -> None:
    volume = crystal()
    content = arrays(volume, unit="e/bohr^3", energy=-3.5, dipole=[0.1, 0.2, 0.3], mine=[1, 2])
    np.savez_compressed(tmp_path / "a.npz", **content)
    back = volumetric.read(tmp_path / "a.npz")
    np.testing.assert_allclose(back.values, volume.values / BOHR**3, rtol=1e-15, atol=0)
    assert back.notes["energy"] == -3.5 and back.notes["dipole"].tolist() == [0.1, 0.2, 0.3]


def test_every_truncated_file_is_refused_with_code_65(tmp_path: Path, capsys) -> None:
    whole = text_of(crystal(spin=True), "npz")
    for cut in [*range(0, len(whole) - 1, 97), len(whole) - 1]:
        with pytest.raises(InputError, match=r"^file: not a"):
            parse(whole[:cut], "npz")
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert app._run(["density-compare", str(tmp_path / "cut.npz")]) == 65
    assert capsys.readouterr().err.count("\n") == 1


def test_damaged_numbers_are_noticed() -> None:
    whole = bytearray(text_of(crystal(), "npz"))
    whole[2000] ^= 1
    with pytest.raises(InputError, match="not a whole"):
        parse(bytes(whole), "npz")


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was loaded",))


def test_nothing_is_unpickled() -> None:
    content = arrays(crystal()) | {"title": np.array([Trap()], dtype=object)}
    with pytest.raises(InputError, match="plain numbers"):
        parse(packed(content), "npz")
    with pytest.raises(InputError, match="not a whole"):
        parse(pickle.dumps(Trap()), "npz")


def test_sizes_beyond_the_file_are_refused_before_anything_is_made() -> None:
    content = arrays(crystal())
    numbers = content.pop("density")
    head = io.BytesIO()
    declared = {"descr": "<f8", "fortran_order": False, "shape": (10**5, 10**5, 10**5)}
    np.lib.format.write_array_header_1_0(head, declared)
    stream = io.BytesIO(packed(content))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("density.npy", head.getvalue() + numbers.tobytes())
    with pytest.raises(InputError, match="numbers that the file does not hold"):
        parse(stream.getvalue(), "npz")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("density", np.zeros((2, 3)), "three axes"),
        ("density", np.full((12, 9, 16), np.nan), "not finite"),
        ("spin", np.zeros((2, 3, 4)), "shape"),
        ("step", np.ones((3, 3)), "one plane"),
        ("origin", np.zeros(4), "shape"),
        ("numbers", np.array([6, 119, 1]), "no element"),
        ("numbers", np.array([6.0, 8.0, 1.0]), "atomic numbers"),
        ("positions", np.zeros((2, 3)), "shape"),
        ("pbc", np.array([1, 1, 1]), "true and false"),
        ("unit", "atomic units", "holds no density"),
        ("unit", "eV", "holds no density"),
        ("electrons", "many", "does not hold numbers"),
    ],
)
def test_what_does_not_fit_together_is_refused(name: str, value: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse(packed(arrays(crystal(), **{name: value})), "npz")


def test_an_archive_of_something_else_is_no_density() -> None:
    with pytest.raises(InputError, match="no array 'density'"):
        parse(packed({"R": np.zeros((5, 3)), "z": np.ones(3)}), "npz")
