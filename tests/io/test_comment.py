"""The comment line of extended xyz: what is a number, what is a name, what is refused."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read as ase_read
from ase.io import write as ase_write

from neupol_cli.errors import InputError
from neupol_cli.io import structures


def info_of(comment: str) -> dict:
    text = f"1\n{comment}\nO 0 0 0\n"
    ((_, atoms),) = structures.read(["-"], stdin=io.StringIO(text))
    return atoms.info


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("formula=C2D6 uid=7e5d2c id=3d2", {"formula": "C2D6", "uid": "7e5d2c", "id": "3d2"}),
        ("a=1.5D1 b=1.5d-01 c=-2.5*^-6 d=3e2", {"a": 15.0, "b": 0.15, "c": -2.5e-6, "d": 300.0}),
        ("a=123456789012345678 b=9999999999999999999", {"a": 123456789012345678, "b": 1e19}),
        ("a=007 b=1_000 c=0 d=-12 e=.5", {"a": "007", "b": "1_000", "c": 0, "d": -12, "e": 0.5}),
        ("a = 1 b= 2 c d= e= 3", {"a": 1, "b": 2, "c": True, "d": "", "e": 3}),
        ("charge=-1 spin=2 multiplicity=3", {"charge": -1, "spin": 2, "multiplicity": 3}),
        ("""a="b=c d" e='it is' "g h"=1""", {"a": "b=c d", "e": "it is", "g h": 1}),
        (r'a="say \"hi\"" b=T c=False d=t', {"a": 'say "hi"', "b": True, "c": False, "d": "t"}),
        ("flags='T F T' name=[a, b]", {"flags": [True, False, True], "name": "a, b"}),
        ('a="_JSON {\\"b\\": [1, 2]}"', {"a": {"b": [1, 2]}}),
        ("it's E=-76.4 Ha", {"it": True, "'": True, "s": True, "E": -76.4, "Ha": True}),
        ("==== energy = 5 ====", {"energy": 5}),
        ("no pairs, 1d3 words", {"comment": "no pairs, 1d3 words"}),
    ],
)  # fmt: skip
def test_values_are_what_was_written(comment: str, expected: dict) -> None:
    assert info_of(comment) == expected


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("a={1 2 3}", [1, 2, 3]),
        ("a='1 2.5D0'", [1.0, 2.5]),
        ("a=[[1, 2], [3, 4]]", [[1, 2], [3, 4]]),
        ('a="_JSON [[1, 2], [3, 4]]"', [[1, 2], [3, 4]]),
    ],
)
def test_arrays(comment: str, expected: list) -> None:
    found = info_of(comment)["a"]
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("key", ["stress", "virial"])
def test_six_numbers_of_a_stress_are_in_voigts_order(key: str) -> None:
    found = info_of(f'energy=-1 {key}="1 2 3 4 5 6" name=x')
    np.testing.assert_array_equal(found[key], [[1, 6, 5], [6, 2, 4], [5, 4, 3]])
    assert found["energy"] == -1 and found["name"] == "x"
    nine = info_of(f'{key}="1 6 5 6 2 4 5 4 3"')[key]
    np.testing.assert_array_equal(nine, found[key])


@pytest.mark.parametrize(
    ("comment", "reason"),
    [
        ('energy=-1 name="no end', "-:2: cannot understand the comment: the value of 'name'"),
        ("energy=1 energy=2", "-:2: cannot understand the comment: 'energy' is given twice"),
        ('a="_JSON {"', "is no JSON"),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_is_refused(comment: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        info_of(comment)
    assert reason in str(caught.value)


def test_lattice_and_properties_in_any_case() -> None:
    text = '1\nlattice="4 0 0 0 5 0 0 0 6" properties=species:S:1:pos:R:3:q:R:1\nO 0 0 0 -0.5\n'
    ((_, atoms),) = structures.read(["-"], stdin=io.StringIO(text))
    assert atoms.pbc.all() and atoms.cell.lengths().tolist() == [4, 5, 6]
    assert atoms.arrays["q"].tolist() == [-0.5]


def test_what_ase_writes_comes_back() -> None:
    info = {
        "name": "two words", "charge": -1, "energy": -1.5e-7, "flag": True, "none": "",
        "vector": np.array([1.0, 2.5, -3.0]), "matrix": np.arange(4).reshape(2, 2),
        "nested": {"a": [1, "b"]}, "quote": 'say "hi"', "stress": np.diag([1.0, 2.0, 3.0]),
    }  # fmt: skip
    stream = io.StringIO()
    ase_write(stream, Atoms("O", info=info), format="extxyz")
    found = info_of(stream.getvalue().splitlines()[1])
    assert found.keys() == info.keys()
    for key, value in info.items():
        np.testing.assert_array_equal(found[key], value)


def test_xyz_is_read_without_ases_formats(tmp_path) -> None:
    """Which cost a fifth of a short call: they import scipy."""
    (tmp_path / "a.xyz").write_text("1\nE=1\nO 0 0 0\n")
    code = (
        "import sys; from neupol_cli.io import structures; "
        f"next(structures.read([{str(tmp_path / 'a.xyz')!r}])); "
        "print([name for name in sys.modules if name.startswith(('ase.io', 'scipy'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


TEXTS = [
    "a\tb",
    "a\nb",
    "a\\b",
    "a\\",
    'a\\"b',
    "",
    "_JSON {",
    "a\x1cb",
    "F/C=C\\F",
    "[1, x]",
    "it's",
]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_read_back_by_ase_and_by_us(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.extxyz"
    info = {"first": text, "list": [text, '"'], "last": "end"}
    structures.write(path, [Atoms("He", info=info)], [{}])
    for found in (ase_read(path), next(structures.read([path]))[1]):
        assert {key: found.info[key] for key in info} == info


def test_keys_of_the_format_stay_the_formats(tmp_path: Path) -> None:
    path = tmp_path / "a.extxyz"
    info = {"Lattice": "fcc", "pbc": "yes", "Properties": "none", "stress": "high", "a=b\n": "c"}
    structures.write(path, [Atoms("He", info=info)], [{}])
    wanted = {f"{key} (input)": info[key] for key in list(info)[:4]} | {"a_b_": "c"}
    for found in (ase_read(path), next(structures.read([path]))[1]):
        assert found.info == wanted and not found.pbc.any()
