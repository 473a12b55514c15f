"""Pages in a real browser: drawn, turned, moved to another level, without errors or a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from neupol_cli.surfaces import page
from neupol_cli.surfaces.scene import density_layer, signed_layer
from tests.surfaces import fields
from tests.surfaces.browser import CHROMIUM, DRIVER, Browser

pytest.importorskip("k3d", reason="k3d draws the pages")
pytestmark = pytest.mark.skipif(
    DRIVER is None or CHROMIUM is None, reason="chromium and chromedriver are not installed"
)
# Corners (P, 3) of the triangles of the surfaces that are seen, Angstrom.
TRIANGLES = """
return K3DInstance.then(plot => {
  const corners = [];
  plot.getScene().traverse(object => {
    const known = plot.getWorld().ObjectsListJson[object.K3DIdentifier];
    if (!known || known.type !== "MarchingCubes" || !known.visible) return;
    const { position } = object.geometry.attributes, at = new plot.Provider.THREE.Vector3();
    for (let k = 0; k < position.count; k++) {
      corners.push(at.fromBufferAttribute(position, k).applyMatrix4(object.matrixWorld).toArray());
    }
  });
  return corners;
});
"""
NAMES = """
const seen = [...document.querySelectorAll(".name")].filter(name => name.offsetParent);
return seen.map(name => name.textContent);
"""
CHOOSE = """
const [id, value] = arguments, chosen = document.getElementById(id);
chosen.value = value;
chosen.dispatchEvent(new Event(chosen.tagName === "SELECT" ? "change" : "input"));
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as started:
        yield started


def shown(browser: Browser, folder: Path, scene) -> None:
    path = folder / "page.html"
    page.write(path, scene)
    browser.show(path)
    told = "const told = document.getElementById('level-now'); return told && told.textContent"
    browser.until(lambda: browser.run(told))


def radii(browser: Browser) -> np.ndarray:
    corners = browser.until(lambda: browser.run(TRIANGLES))
    return np.linalg.norm(np.array(corners) - fields.CENTRE, axis=1)


def level(browser: Browser) -> float:
    return float(browser.run("return document.getElementById('level-now').textContent").split()[0])


def settled(browser: Browser, changed_from: np.ndarray) -> np.ndarray:
    """The window, once it is another one and stays so."""

    def still() -> np.ndarray | None:
        first = browser.pixels()
        same = np.array_equal(first, browser.pixels())
        return first[None] if same and not np.array_equal(first, changed_from) else None

    found = browser.until(lambda: () if (now := still()) is None else (now,))
    return found[0][0]


def test_a_ball_is_drawn_turns_and_shrinks(browser: Browser, tmp_path: Path) -> None:
    shown(browser, tmp_path, fields.scene(density_layer(fields.gaussian())))
    assert level(browser) == 0.30
    # The page puts the surface in its place after it is there.
    browser.until(lambda: abs(radii(browser).mean() - fields.radius(0.3)) < 0.02)
    found = radii(browser)
    assert len(found) > 500
    # As tight as the grid allows (test_page.py), and shorter than a step.
    np.testing.assert_allclose(found, fields.radius(0.3), rtol=0, atol=0.012)

    first = settled(browser, np.zeros(1))
    picture = first[100:]  # below the controls
    blue = (picture[..., 2] > picture[..., 0] + 20).mean()
    assert 0.1 < blue < 0.9

    browser.run(CHOOSE, "level", 1)
    browser.until(lambda: abs(radii(browser).mean() - fields.radius(0.9)) < 0.02)
    smaller = settled(browser, first)[100:]
    assert (smaller[..., 2] > smaller[..., 0] + 20).mean() < 0.5 * blue
    assert browser.errors() == []


def test_what_is_seen_turns_with_the_mouse(browser: Browser, tmp_path: Path) -> None:
    x = fields.grid().points()[:, 0] - fields.CENTRE[0]
    lobes = (x * fields.gaussian().ravel()).reshape(fields.SHAPE)
    shown(browser, tmp_path, fields.scene(signed_layer(lobes, "lobes")))
    before = settled(browser, np.zeros(1))
    red, blue = (reddish(before[100:], sign) for sign in (1, -1))
    assert min(red.mean(), blue.mean()) > 0.01
    browser.drag((250, 330), (120, 0))
    after = settled(browser, before)
    assert (np.abs(after - before).max(axis=-1) > 20).mean() > 0.01
    assert browser.errors() == []
    assert browser.run("return performance.getEntriesByType('resource').length") == 0


def reddish(picture: np.ndarray, sign: int) -> np.ndarray:
    return sign * (picture[..., 0] - picture[..., 2]) > 30


def test_layers_atoms_and_names(browser: Browser, tmp_path: Path) -> None:
    layers = [density_layer(fields.gaussian()), signed_layer(-fields.gaussian(), "less")]
    shown(browser, tmp_path, fields.scene(*layers, charges={"MBIS": np.array([-0.5])}))
    first = settled(browser, np.zeros(1))
    browser.run(CHOOSE, "layer", 1)
    text = "return document.getElementById('level-now').textContent"
    browser.until(lambda: browser.run(text).startswith("±"))
    second = settled(browser, first)
    assert reddish(second[100:], 1).mean() < 0.02 < reddish(second[100:], -1).mean()

    # The atom is in the middle of the canvas.
    size = browser.run("return [window.innerWidth, window.innerHeight]")
    browser.point(size[0] // 2, size[1] // 2)
    browser.until(lambda: browser.run(NAMES) == ["O 1, MBIS -0.500 e"])
    browser.point(5, size[1] - 5)
    browser.until(lambda: browser.run(NAMES) == [])
    browser.run("document.getElementById('names').click()")
    browser.until(lambda: browser.run(NAMES) == ["O1 -0.50"])
    assert browser.errors() == []
