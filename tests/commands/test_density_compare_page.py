"""``neupol density-compare --plot F.html``: the page's numbers are those of --json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from neupol_cli.io import volumetric
from neupol_cli.io.volumetric import Grid, Volume
from tests.commands.test_density_compare import densities, record
from tests.surfaces import fields
from tests.surfaces.browser import CHROMIUM, DRIVER, Browser
from tests.warm import neupol

pytest.importorskip("k3d", reason="k3d draws the pages")
ROWS = """
const rows = [...document.querySelectorAll(`#${arguments[0]} tr`)].slice(1);
return rows.map(row => [...row.children].map(cell => cell.textContent));
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("<b>pages")
    for name, volume in zip(("a.npz", "b.npz"), densities(), strict=True):
        volumetric.write(made / name, volume, "t")
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if DRIVER is None or CHROMIUM is None:
        pytest.skip("chromium and chromedriver are not installed")
    with Browser() as started:
        yield started


def shown(browser: Browser, path: Path) -> None:
    browser.show(path)
    told = "const told = document.querySelector('aside') && document.getElementById('level-now');"
    browser.until(lambda: browser.run(f"{told} return told && told.textContent"))


def numbers(browser: Browser, table: str) -> np.ndarray:
    return np.array([row[1:] for row in browser.run(ROWS, table)], float)


def test_numbers_in_the_browser_are_those_of_json(folder: Path, browser: Browser) -> None:
    found = record(folder, "a.npz", "--reference", "b.npz", "--plot", "ab.html")
    page, atoms, shells = folder / "ab.html", found["atoms"], found["by_distance"]
    assert found["plot"] == "ab.html" and page.stat().st_size < 5_000_000
    shown(browser, page)
    said = float(browser.run("return document.getElementById('eps-mae').textContent"))
    assert said == pytest.approx(found["eps_mae_percent"], rel=0, abs=5.1e-5)
    assert said > 1
    totals = numbers(browser, "totals")
    electrons = [found["electrons_sum"], found["electrons_sum_reference"]]
    np.testing.assert_allclose(totals[0], electrons, rtol=0, atol=5.1e-7)
    zeta = [found["zeta"], found["zeta_reference"]]
    np.testing.assert_allclose(totals[1], zeta, rtol=0, atol=5.1e-6)
    dipoles = np.array([atoms["dipole_D"], atoms["dipole_reference_D"]])
    np.testing.assert_allclose(totals[3:], dipoles.T, rtol=0, atol=5.1e-5)
    np.testing.assert_allclose(totals[2], np.linalg.norm(dipoles, axis=1), rtol=0, atol=5.1e-5)
    keys = ("errors_electrons", "eps_mae_parts_percent", "charges_e", "charges_reference_e")
    of_atoms = np.array([atoms[key] for key in keys]).T
    np.testing.assert_allclose(numbers(browser, "atoms"), of_atoms, rtol=0, atol=5.1e-5)
    parts = [np.array(shells[key]) for key in ("electrons", "eps_mae_parts_percent")]
    assert parts[1].sum() == pytest.approx(found["eps_mae_percent"], rel=0, abs=1e-9)
    ends = np.array([0, 10, 20, 30, 40, 60, len(parts[0])])  # steps of 0.05 Angstrom
    sums = [[part[a:b].sum() for part in parts] for a, b in pairwise(ends)]
    np.testing.assert_allclose(numbers(browser, "shells"), sums, rtol=0, atol=5.1e-5)
    assert browser.run("return document.querySelector('aside img').naturalWidth") > 100
    assert browser.errors() == []
    assert browser.run("return performance.getEntriesByType('resource').length") == 0
    red, blue = (browser.until(lambda sign=sign: part(browser, sign)) for sign in (1, -1))
    assert min(red, blue) > 0.005


def part(browser: Browser, sign: int) -> float:
    """Of the canvas, what is red or blue: the window is narrow, the column below the canvas."""
    picture = browser.pixels()
    seen = picture[130 : int(0.55 * len(picture))]
    return float((sign * (seen[..., 0] - seen[..., 2]) > 30).mean())


def test_a_model_is_beside_the_file_and_the_true_one_is_the_file(folder: Path) -> None:
    found = record(folder, "b.npz", "-m", "density", "--plot", "m.html")
    assert "zeta_reference" not in found and "electrons_sum_reference" not in found
    text = fields.described((folder / "m.html").read_text())
    assert [layer["title"] for layer in text["layers"]] == [
        "predicted minus reference", "predicted", "reference",
    ]  # fmt: skip
    row = f"<td>{found['electrons_sum_predicted']:.6f}</td><td>{found['electrons_sum']:.6f}</td>"
    assert row in text["beside"]
    row = f"<td>{found['zeta_predicted']:.5f}</td><td>{found['zeta']:.5f}</td>"
    assert row in text["beside"]
    assert [colouring["title"] for colouring in text["colourings"]] == [
        "Hirshfeld charge", "Hirshfeld (reference) charge", "elements",
    ]  # fmt: skip


def test_electrons_of_no_free_atoms_leave_charges_out(folder: Path) -> None:
    """Three electrons on one helium: of its errors there is a page all the same."""
    grid = Grid(np.full(3, -3.0), np.diag([0.3] * 3), (21,) * 3)
    bell = np.exp(-2.0 * (grid.points() ** 2).sum(1)).reshape(grid.shape)
    bell *= 3.0 / (bell.sum() * grid.element)
    for name, values in (("c.npz", bell), ("d.npz", 1.1 * bell)):
        volumetric.write(folder / name, Volume(Atoms("He", [[0, 0, 0]]), grid, values), "t")
    words = ("density-compare", "d.npz", "--reference", "c.npz", "--json")
    done = neupol(*words, "--plot", "he.html", cwd=folder)
    assert done.returncode == 0 and "its page has no charges" in done.stderr
    found = json.loads(done.stdout.splitlines()[0])
    assert found["eps_mae_percent"] == pytest.approx(10, rel=0, abs=1e-5)
    assert found["atoms"]["eps_mae_parts_percent"] == pytest.approx([10], rel=0, abs=1e-5)
    assert "charges_e" not in found["atoms"]
    asked = neupol(*words, "--atoms", cwd=folder)
    assert asked.returncode == 65 and "its free atoms with their charge" in asked.stderr


def test_several_pages_need_several_names(folder: Path) -> None:
    for name, volume in zip(("many.h5", "true.h5"), densities(), strict=True):
        volumetric.h5.write(folder / name, [volume, volume], "t")
    pair = ("many.h5", "--reference", "true.h5", "--plot")
    done = neupol("density-compare", *pair, "p{}.html", cwd=folder)
    assert done.returncode == 0, done.stderr
    beside = [fields.described((folder / f"p{k}.html").read_text())["beside"] for k in (0, 1)]
    assert beside[0] == beside[1] and "eps_mae" in beside[0]
    one = neupol("density-compare", *pair, "p.html", cwd=folder)
    assert one.returncode == 2 and "the name needs {}" in one.stderr


def test_the_same_density_twice_is_a_page(folder: Path) -> None:
    found = record(folder, "a.npz", "--reference", "a.npz", "--plot", "aa.html")
    assert found["eps_mae_percent"] == 0
    assert (
        "<b id='eps-mae'>0.0000</b>" in fields.described((folder / "aa.html").read_text())["beside"]
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--plot", "p.html"], "pages compare: with --reference or with -m"),
        (["--reference", "b.npz", "--plot", "no/p.html"], "the folder"),
        (["--reference", "b.npz", "--plot", "p.htm"], "a picture's name ends in"),
    ],
)
def test_refusals_are_one_line(folder: Path, arguments: list[str], reason: str) -> None:
    done = neupol("density-compare", "a.npz", *arguments, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert reason in done.stderr and len(done.stderr.splitlines()) == 1 and done.stdout == ""
