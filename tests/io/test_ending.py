"""Formats without a mark of their end: a file cut short is refused or doubted."""

from __future__ import annotations

from pathlib import Path

import pytest

from neupol_cli.errors import InputError
from neupol_cli.io import structures

GAUSSIAN = (
    "#P HF/6-31G\n\nwater\n\n0 1\nO 0.0 0.0 0.119\nH 0.0 0.763 -0.477\nH 0.0 -0.763 -0.477\n\n"
)
AIMS = "atom 0.0 0.0 0.119 O\natom 0.0 0.763 -0.477 H\natom 0.0 -0.763 -0.477 H\n"


def test_no_beginning_of_gaussian_input_is_a_molecule(tmp_path: Path) -> None:
    path = tmp_path / "w.com"
    path.write_text(GAUSSIAN)
    ((_, atoms),) = structures.read([path])
    assert str(atoms.symbols) == "OH2"
    for length in range(len(GAUSSIAN) - 1):
        path.write_text(GAUSSIAN[:length])
        with pytest.raises(InputError):
            list(structures.read([path]))


def test_a_last_line_without_end_is_doubted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "geometry.in"
    path.write_text(AIMS)
    assert len(next(structures.read([path]))[1]) == 3 and not capsys.readouterr().err
    lines = 0
    for length in range(1, len(AIMS)):
        path.write_text(AIMS[:length])
        try:
            read = [atoms for _, atoms in structures.read([path])]
        except InputError:
            continue
        said = capsys.readouterr().err
        assert AIMS[length - 1] == "\n" or "may have been cut short" in said, AIMS[:length]
        lines += bool(read)
    assert lines
