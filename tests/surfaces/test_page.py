"""What a page holds: fields in their places, atoms by name, few bytes, no links."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from neupol_cli.errors import UsageError
from neupol_cli.io.volumetric import by_counts
from neupol_cli.surfaces import page
from neupol_cli.surfaces.balls import balls
from neupol_cli.surfaces.samples import MOST, Frame, shortened
from neupol_cli.surfaces.scene import Layer, Paint, Scene, density_layer, signed_layer
from tests.surfaces import fields


@pytest.fixture
def drawn():
    pytest.importorskip("k3d")
    return page.page


def surfaces(text: str) -> list[dict]:
    return [one for one in fields.objects(text) if one["type"] == "MarchingCubes"]


def crossings(points: np.ndarray, values: np.ndarray, level: float) -> np.ndarray:
    """(P, 3) where a field passes a level along the edges of its grid, linear in between."""
    found = []
    for axis in range(3):
        ahead = np.delete(np.arange(values.shape[axis]), 0)
        ends = [np.take(values, k, axis) for k in (ahead - 1, ahead)]
        places = [np.take(points, k, axis) for k in (ahead - 1, ahead)]
        passes = (ends[0] < level) != (ends[1] < level)
        share = ((level - ends[0][passes]) / (ends[1] - ends[0])[passes])[:, None]
        found.append((1 - share) * places[0][passes] + share * places[1][passes])
    return np.concatenate(found)


@pytest.mark.parametrize("level", [0.02, 0.3])
def test_a_ball_is_one_of_the_right_radius(drawn, level: float) -> None:
    (surface,) = surfaces(drawn(fields.scene()))
    points, values = fields.places(surface)
    exact = -np.exp(-(np.linalg.norm(points - fields.CENTRE, axis=-1) ** 2))
    seen = exact < -1e-4
    assert seen.sum() > 10_000
    np.testing.assert_allclose(values[seen], exact[seen], rtol=6e-4, atol=0)
    radii = np.linalg.norm(crossings(points, values, -level) - fields.CENTRE, axis=1)
    assert len(radii) > 500
    # Between points h apart a line is h^2 |f''| / (8 |f'|) off, below 0.2^2 / 8 * 3.5 here.
    error = np.abs(radii - fields.radius(level)).max()
    assert 1e-4 < error < 0.018


def test_below_zero_is_drawn_by_the_same_level(drawn) -> None:
    values = fields.gaussian() * np.sign(fields.grid().points()[:, 0]).reshape(fields.SHAPE)
    above, below = surfaces(drawn(fields.scene(signed_layer(values, "difference"))))
    assert above["level"] == below["level"] < 0
    assert above["color"] != below["color"]
    for surface, side in ((above, 1), (below, -1)):
        points, stored = fields.places(surface)
        inside = points[stored < surface["level"]]
        assert len(inside) > 100 and (side * inside[:, 0] > 0).all()


def test_paint_lies_on_the_same_points(drawn) -> None:
    heights = fields.grid().points()[:, 2].reshape(fields.SHAPE)
    paint = Paint("height", "Å", heights, 2.0)
    layer = Layer("density", "e/Å³", fields.gaussian(), 0.1, 0.01, 0.9, paint=paint)
    text = drawn(fields.scene(layer))
    (surface,) = surfaces(text)
    points, _ = fields.places(surface)
    np.testing.assert_allclose(
        fields.array(surface["attribute"]), points[..., 2], rtol=5e-4, atol=1e-9
    )
    assert surface["color_range"] == [-2.0, 2.0]
    described = fields.described(text)["layers"][0]["paint"]
    assert described == {"title": "height", "unit": "Å", "reach": "2"}


def test_atoms_have_names_and_charges(drawn) -> None:
    text = drawn(fields.scene(charges={"Hirshfeld": np.array([-0.3004]), "MBIS": np.array([0.9])}))
    scene = fields.described(text)
    (atom,) = scene["atoms"]
    assert atom["text"] == "O 1, Hirshfeld -0.300 e, MBIS +0.900 e"
    assert atom["short"] == "O1 -0.30"
    np.testing.assert_allclose(atom["place"], fields.CENTRE, rtol=0, atol=1e-4)
    assert [one["title"] for one in scene["colourings"]] == [
        "Hirshfeld charge", "MBIS charge", "elements",
    ]  # fmt: skip
    red, blue = scene["colourings"][0]["colours"][0], scene["colourings"][1]["colours"][0]
    assert red >> 16 > 2 * (red & 255) and blue & 255 > 2 * (blue >> 16)


def test_a_page_is_small_and_needs_nothing(drawn) -> None:
    atoms = Atoms("C" * 3, np.random.default_rng(0).uniform(0, 16, (3, 3)))
    grid = by_counts(atoms, (110, 110, 110), 3.0)
    noise = np.random.default_rng(1).normal(size=grid.shape)
    text = drawn(Scene("noise", atoms, grid, [density_layer(noise), signed_layer(noise, "more")]))
    assert len(text) < 5_000_000
    small = drawn(fields.scene())
    assert len(small) < 1_500_000
    for word in (
        'src="',
        "src='",
        'href="',
        "<link",
        "url(http",
        "url('http",
        "@import",
        "<b>ball",
    ):
        assert word not in small.lower()


def test_a_cell_closes_at_its_faces() -> None:
    crystal = bulk("NaCl", "rocksalt", 5.64, cubic=True)
    crystal.positions += 0.001 - 2 * 5.64  # in another cell, and nearly on its faces
    grid = by_counts(crystal, (12, 10, 9), 3.0)
    values = np.random.default_rng(0).normal(size=grid.shape)
    frame = Frame.of(grid, crystal, 1)
    closed = frame.field(values)
    assert closed.shape == (13, 11, 10)
    np.testing.assert_array_equal(closed[-1], closed[0])
    np.testing.assert_array_equal(closed[:-1, :-1, :-1], values)
    np.testing.assert_allclose(frame.edges, crystal.cell.array, rtol=0, atol=1e-12)
    seen = balls(crystal, frame.origin, frame.edges, frame.repeats)
    # 8 corners and 6 faces of one kind; 12 edges and the middle of the other.
    assert sorted(seen.atoms.get_chemical_symbols()) == ["Cl"] * 13 + ["Na"] * 14
    fractions = (seen.atoms.positions - frame.origin) @ np.linalg.inv(frame.edges)
    assert fractions.min() > -0.01 and fractions.max() < 1.01
    kinds = seen.atoms.numbers[seen.ends]
    assert len(seen.ends) == 2 * 54 and (kinds == 11).sum() == 54  # 3 * 2 * 9 bonds, Na to Cl


def test_more_points_than_a_page_holds_are_thinned() -> None:
    atoms = Atoms("H", [[0, 0, 0]], cell=np.diag([30.0, 31.0, 32.0]), pbc=True)
    grid = by_counts(atoms, (150, 155, 160), 3.0)
    waves = np.cos(2 * np.pi * np.arange(150) / 150)[:, None, None] + np.zeros(grid.shape)
    frame = Frame.of(grid, atoms, 2)
    thinned = frame.field(waves)
    assert MOST / 2 * 0.9 < thinned.size <= MOST / 2 * 1.05
    along = np.cos(2 * np.pi * np.linspace(0, 1, frame.shape[0]))
    np.testing.assert_allclose(thinned[:, 3, 5], along, rtol=0, atol=1e-3)


def test_numbers_are_short_where_it_does_not_show() -> None:
    values = np.array([0.0, 1.0, -1.2345678, 1e-5, 123.456])
    short = shortened(values, 0.1)
    np.testing.assert_allclose(short[[0, 1, 2, 4]], values[[0, 1, 2, 4]], rtol=5e-4, atol=0)
    assert short[3] == 0.0 and not (short.view("<u4") & 0x1FFF).any()


def test_a_missing_k3d_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "k3d", None)
    with pytest.raises(UsageError, match=r"k3d.*pip install 'neupol\[plot\]'"):
        page.check_installed()
