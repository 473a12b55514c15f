"""Points of the command line and of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neupol_cli.errors import InputError, UsageError
from neupol_cli.potential import points


def test_points_of_the_command_line() -> None:
    found = points.parse(["1,-2,3e-1", " 0, 0 ,4.5"])
    np.testing.assert_array_equal(found, [[1, -2, 0.3], [0, 0, 4.5]])
    assert points.parse([]).shape == (0, 3)


@pytest.mark.parametrize("text", ["1,2", "1,2,3,4", "1,2,x", "1,2,nan", "1;2;3", ""])
def test_what_is_no_point(text: str) -> None:
    with pytest.raises(UsageError, match="--at takes X,Y,Z in Angstrom"):
        points.parse([text])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "x,y,z\n1,2,3\n\n-4,5,6.5\n"),
        ("p.csv", "1, 2, 3, a\r\n-4, 5, 6.5, b\r\n"),
        ("p.csv", "X (A),Y (A),Z (A)\n1,2,3\n-4,5,6.5"),
        ("p.xyz", "2\nx y z\nX 1 2 3\nBq -4 5 6.5 0.1\n\n"),
    ],
)
def test_points_of_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    np.testing.assert_array_equal(points.read(tmp_path / name), [[1, 2, 3], [-4, 5, 6.5]])


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("p.csv", "1,2,3\n1,2\n", "p.csv:2: no point: 2 numbers where three are needed"),
        ("p.csv", "x,y,z\n1,inf,2\n", "p.csv:2: no point: 'inf' is not finite"),
        ("p.csv", "x,y,z\n", "holds no point"),
        ("p.csv", b"\xff\xfe1,2,3", "is no text"),
        ("p.xyz", "3\n\nX 1 2 3\n", "says 3 points and holds 1"),
        ("p.xyz", "X 1 2 3\n", "p.xyz:1: 'X 1 2 3' is no count"),
        ("p.xyz", "1\n\nX 1 2\n", "p.xyz:3: no point: 2 numbers"),
        ("p.xyz", "", "holds no point"),
        ("missing.csv", None, "No such file"),
    ],
)
def test_files_without_points(
    tmp_path: Path, name: str, text: str | bytes | None, reason: str
) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=reason):
        points.read(tmp_path / name)


def test_files_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the ending is one of \.xyz, \.csv"):
        points.read(tmp_path / "p.txt")
