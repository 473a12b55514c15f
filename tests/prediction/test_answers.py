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


def test_the_largest_force_has_the_error_of_its_atom(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    forces = Target(np.array([[0.0, 1.0, 0.0], [3.0, 4.0, 0.0], [0.0, 0.0, 2.0]]), "eV/Angstrom")
    half = Target(np.array([0.9, 0.3, 0.5]), "eV/Angstrom", "atom")
    for more, shown in ((half, "5 ± 0.3"), (None, "5 ± 0.1")):
        spread = Target(np.array([0.2, 0.1, 0.4]), "eV/Angstrom", "atom")
        values = {"U0": Target(np.array(-1.5), "eV")}
        prediction = Prediction(
            "a.xyz",
            Atoms("H2O"),
            values,
            forces=forces,
            force_spread=spread,
            force_uncertainty=more,
        )
        answers._aligned([prediction])
        lines = capsys.readouterr().out.splitlines()
        assert [line.split() for line in lines][-1] == [
            "largest", "force", "eV/Angstrom", *shown.split(),
        ]  # fmt: skip
