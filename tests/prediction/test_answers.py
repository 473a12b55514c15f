"""How answers are laid out for people."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from neupol_cli.io.hdf5 import Target
from neupol_cli.prediction import answers
from neupol_cli.prediction.committee import Prediction


def test_files_of_one_name_in_two_folders_have_two_headings(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    values = {"U0": Target(np.array(-1.5), "eV")}
    for labels, headings in (
        (("A/m.xyz", "B/m.xyz"), ("A/m.xyz (O)", "B/m.xyz (O)")),
        (("A/m.xyz", "B/n.xyz"), ("m.xyz (O)", "n.xyz (O)")),
    ):
        answers._aligned([Prediction(label, Atoms("O"), values) for label in labels])
        head = capsys.readouterr().out.splitlines()[0]
        assert [head.count(heading) for heading in headings] == [1, 1]
        assert ("A/" in head) == ("A/" in headings[0])
