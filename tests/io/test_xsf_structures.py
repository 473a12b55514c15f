"""XSF as a format of structures: every dimension, animations, what is behind data grids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from neupol_cli.errors import InputError
from neupol_cli.io import structures
from neupol_cli.io.units import HARTREE
from tests.io.xsf_texts import CRYSTAL, ONCE, SPAN, again, block


def read(path: Path, text: str) -> list[Atoms]:
    path.write_text(text)
    return [atoms for _, atoms in structures.read([path])]


def test_structures_of_all_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "a.xsf"
    for word, count in (("CRYSTAL", 3), ("SLAB", 2), ("POLYMER", 1), ("MOLECULE", 0)):
        (atoms,) = read(path, CRYSTAL.replace("CRYSTAL", word) + block(again(ONCE)))
        assert atoms.pbc.sum() == count and atoms.pbc[:count].all()
        assert atoms.cell.array.any() == (count > 0)
    (atoms,) = read(path, "ATOMS\n 6 0 0 0 0 0 0.1\n Fe1 0 0 2.0 0 0 -0.1\n")
    assert atoms.numbers.tolist() == [6, 26]
    np.testing.assert_array_equal(
        atoms.get_forces(), np.array([[0, 0, 0.1], [0, 0, -0.1]]) * HARTREE
    )


def test_animations_with_one_cell_or_many(tmp_path: Path) -> None:
    path = tmp_path / "a.axsf"
    head = f"ANIMSTEPS 2\nSLAB\nPRIMVEC\n{SPAN}"
    steps = [f"PRIMCOORD {k}\n1 1\nHe 0 0 0.{k}\n" for k in (1, 2)]
    assert [one.positions[0, 2] for one in read(path, head + "".join(steps))] == [0.1, 0.2]
    wider = f"PRIMVEC 2\n{SPAN.replace('2.0', '2.5')}"
    many = head.replace("VEC", "VEC 1") + steps[0] + wider + steps[1]
    assert [one.cell.array[0, 0] for one in read(path, many)] == [2.0, 2.5]
    for text in (head + steps[0], head + steps[1] + steps[0], head[12:] + "".join(steps)):
        with pytest.raises(InputError):
            read(path, text)


@pytest.mark.parametrize("text", [CRYSTAL, "# a\n\n" + CRYSTAL, "ATOMS\n O 0.0 0.0 0.0\n"])
def test_an_xsf_is_known_by_its_beginning(tmp_path: Path, text: str) -> None:
    for name in ("a.xsf", "si.out", "structure", "a.dat"):
        assert len(read(tmp_path / name, text)) == 1


def test_structures_behind_grids_and_other_lengths_are_refused(tmp_path: Path, capsys) -> None:
    octopus = block(again(ONCE)).replace("by hand", "units: coords = b, function = b^-3")
    for text in (CRYSTAL + block(again(ONCE)) + CRYSTAL, CRYSTAL + octopus):
        with pytest.raises(InputError, match=r"a\.xsf:\d+: "):
            read(tmp_path / "a.xsf", text)
    assert capsys.readouterr().err == ""
    read(tmp_path / "a.xsf", CRYSTAL[:-1])
    assert "may have been cut short" in capsys.readouterr().err
