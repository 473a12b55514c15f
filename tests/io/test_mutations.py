"""Damaged files are refused or answered (mutations.py), whatever the damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from neupol_cli.errors import InputError
from neupol_cli.io import structures, volumetric
from tests.io import mutations
from tests.volumes import crystal


def test_a_thousand_damaged_files(tmp_path: Path) -> None:
    results = [result for _, result, _ in mutations.tried(1000, 0, tmp_path)]
    assert set(results) == {"refused", "answered"}, set(results)
    assert results.count("refused") > 500


def test_an_archive_without_its_end_is_bad_input(tmp_path: Path) -> None:
    """A directory that begins before the file does is no trouble of the disk."""
    path = tmp_path / "a.npz"
    volumetric.write(path, crystal(), "made up")
    content = path.read_bytes()
    path.write_bytes(content[1000:])
    with pytest.raises(InputError, match=r"not a whole \.npz file"):
        volumetric.read(path)


def test_an_output_of_nwchem_without_a_structure(tmp_path: Path) -> None:
    path = tmp_path / "a.nwo"
    path.write_text("              Northwest Computational Chemistry Package (NWChem) 7.0.2\n")
    with pytest.raises(InputError):
        list(structures.read([path]))
