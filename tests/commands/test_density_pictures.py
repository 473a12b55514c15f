"""``neupol density --plot``: slices, and pages to turn."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.commands import gaussians
from tests.commands.gaussians import result, run
from tests.surfaces import fields


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> gaussians.Gaussians:
    return gaussians.in_place(monkeypatch, tmp_path)


def test_a_picture_is_drawn(model, capsys) -> None:
    report = result(
        capsys, "water.xyz", "-o", "rho.cube", "--spacing", "0.3", "--plot", "slices.png"
    )
    assert report["plot"] == "slices.png"
    assert Path("slices.png").read_bytes().startswith(b"\x89PNG")
    assert Path("slices.png").stat().st_size > 20_000
    code, _, err = run(capsys, "water.xyz", "-o", "rho.cube", "--plot", "slices.jpeg")
    assert code == 2 and ".png" in err and ".html" in err


def test_a_page_has_the_density_its_spin_and_its_difference(model, capsys) -> None:
    pytest.importorskip("k3d")
    grid = ("--grid", "30,30,30")
    result(capsys, "water.xyz", "-o", "rho.cube", *grid)
    model.config.spin = True
    report = result(
        capsys, "water.xyz", "--reference", "rho.cube", "--grid-from", "rho.cube",
        "--plot", "turn.html",
    )  # fmt: skip
    assert report["plot"] == "turn.html"
    shown = fields.described(Path("turn.html").read_text())
    assert [layer["title"] for layer in shown["layers"]] == [
        "electron density", "spin density, up minus down", "predicted minus reference",
    ]  # fmt: skip
    assert [atom["text"] for atom in shown["atoms"]] == ["O 1", "H 2", "H 3"]
    assert shown["title"] == "water.xyz (H2O)"


def test_a_page_without_k3d_is_refused_before_any_work(model, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "k3d", None)
    code, out, err = run(capsys, "water.xyz", "--plot", "turn.html")
    assert code == 2 and out == "" and len(err.splitlines()) == 1
    assert "pip install 'neupol[plot]'" in err and not Path("turn.html").exists()
