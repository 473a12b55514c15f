"""A scene as one web page that needs nothing else: k3d draws, page.js is what is around it.

The page holds fields, not triangles: k3d finds the surface of whatever level the slider says.
"""

from __future__ import annotations

import json
import re
from html import escape
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from neupol_cli import provenance
from neupol_cli.errors import UsageError
from neupol_cli.io.files import atomic, checked_target
from neupol_cli.surfaces.balls import Balls, axes_of, axes_of_cell, balls, radii_of
from neupol_cli.surfaces.colours import COLOURS, of_shares
from neupol_cli.surfaces.samples import Frame, shortened

if TYPE_CHECKING:
    from k3d.objects import Drawable

    from neupol_cli.surfaces.scene import Layer, Scene

SUFFIX = ".html"
FIELD_OF_VIEW = 25.0  # degrees: nearly parallel
STICK, EDGE = 0.1, 0.02  # Angstrom: radius of bonds, width of a cell's edges
OPACITY = 0.5
AROUND = 1.2  # Angstrom around all that is drawn is seen as well
LEAST_REACH = 0.05  # e: charges below are nearly white
PLAIN, ABOVE, BELOW = 0x5B9BD5, 0xC0392B, 0x2A6FBB
GREY = 0x777777


class Colouring(TypedDict):
    """Colours (B,) of balls as numbers 0xRRGGBB, and the charge of the strongest colour."""

    title: str
    colours: list[int]
    reach: str


def check_target(path: str) -> None:
    """Before any work: whether a page can be made, and written there.

    Raises:
        UsageError: k3d is missing, another ending, or a folder that is not there.
    """
    if not path.lower().endswith(SUFFIX):
        raise UsageError(f"{path}: a page's name ends in {SUFFIX}")
    check_installed()
    checked_target(path)


def check_installed() -> None:
    """Whether pages can be made.

    Raises:
        UsageError: k3d is missing.
    """
    try:
        import k3d  # noqa: F401
    except ImportError as trouble:
        raise UsageError(
            "k3d, which draws pages, is not installed: pip install 'neupol[plot]'"
        ) from trouble


def write(path: str | Path, scene: Scene) -> None:
    """Writes a page.

    Raises:
        UsageError: k3d is missing.
        StorageError: the page cannot be written.
    """
    text = page(scene)
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def page(scene: Scene) -> str:
    """The whole page; UsageError where k3d is missing."""
    check_installed()
    import k3d

    fields = sum(1 + layer.signed + (layer.paint is not None) for layer in scene.layers)
    frame = Frame.of(scene.grid, scene.atoms, fields)
    seen = balls(scene.atoms, frame.origin, frame.edges, frame.repeats)
    plot = k3d.plot(
        grid_visible=False, menu_visibility=False, axes_helper=0.0, colorbar_object_id=0,
        antialias=1, logarithmic_depth_buffer=False, camera_auto_fit=False,
        camera_fov=FIELD_OF_VIEW, camera=_camera(scene, frame, seen),
    )  # fmt: skip
    structure = [_spheres(seen), *_sticks(seen)]
    surfaces = [_surfaces(layer, frame) for layer in scene.layers]
    # k3d's own numbers are addresses in memory; none may be zero, its colour bar's.
    for number, drawn in enumerate((*structure, *_cell(frame), *chain(*surfaces)), 1):
        drawn.id = number
        plot += drawn
    # "<" is escaped so that no name in the data can end the script element.
    data = json.dumps(_described(scene, seen, structure, surfaces), separators=(",", ":"))
    safe = data.replace("<", "\\u003c")
    script = f"const plot = K3DInstance, scene = {safe};\n{_beside('page.js')}"
    return _titled(plot.get_snapshot(additional_js_code=script), scene.title, bool(scene.beside))


def _titled(text: str, title: str, column: bool) -> str:
    """k3d's page with our title, style and record, and without the name and time that k3d gives."""
    style = f"<style>{_beside('page.css')}{_beside('column.css') if column else ''}</style>"
    head = f"{provenance.meta()}<title>{escape(title)}</title>{style}"
    return re.sub(r"<title>.*?</title>", lambda _: head, text, count=1)


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _camera(scene: Scene, frame: Frame, seen: Balls) -> list[float]:
    """Where the eye is, what it looks at, and what is up, (9,) Angstrom."""
    surface = frame.above(scene.layers[0].values, scene.layers[0].level)
    corners = frame.corners()[: 8 * frame.repeats.any()]
    shown = np.concatenate([seen.atoms.positions, corners, surface])
    centre = 0.5 * (shown.min(axis=0) + shown.max(axis=0))
    axes = axes_of_cell(frame.edges) if frame.repeats.all() else axes_of(scene.atoms)
    reach = np.abs((shown - centre) @ axes.T).max(axis=0)  # right, up, towards the eye
    room = max(reach[:2]) + AROUND
    distance = reach[2] + room / np.tan(np.radians(0.5 * FIELD_OF_VIEW))
    return [*(centre + distance * axes[2]), *centre, *axes[1]]


def _spheres(seen: Balls) -> Drawable:
    import k3d

    return k3d.points(
        seen.atoms.positions.astype("f4"),
        point_sizes=(2 * radii_of(seen.atoms)).astype("f4"),
        colors=np.array(_element_colours(seen), "u4"),
        shader="mesh",
        mesh_detail=4,
    )


def _sticks(seen: Balls) -> list[Drawable]:
    """Half a bond in the colour of the atom at its end; k3d waits forever for none at all."""
    colours = np.array(_element_colours(seen), "u4")[seen.ends]
    return [_segments(seen.halves, colours.repeat(2), 2 * STICK)] if len(seen.ends) else []


def _cell(frame: Frame) -> list[Drawable]:
    """The edges of the cell."""
    if not frame.repeats.any():
        return []
    corners = frame.corners()
    pairs = [(k, k + step) for step in (1, 2, 4) for k in range(8) if not k & step]
    ends = corners[np.array(pairs)]  # (12, 2, 3)
    return [_segments(ends, np.full(2 * len(pairs), GREY, "u4"), EDGE)]


def _segments(ends: np.ndarray, colours: np.ndarray, width: float) -> Drawable:
    """Straight tubes between pairs of points (S, 2, 3), with the colours (2 S,) of the points."""
    import k3d

    indices = np.arange(2 * len(ends), dtype="u4").reshape(-1, 2)
    points = ends.reshape(-1, 3).astype("f4")
    return k3d.lines(
        points, indices, indices_type="segment", colors=colours, width=width, shader="mesh"
    )


def _surfaces(layer: Layer, frame: Frame) -> list[Drawable]:
    """One surface, or that above and that below zero."""
    signs = (1, -1) if layer.signed else (1,)
    colours = (ABOVE, BELOW) if layer.signed else (PLAIN,)
    values = frame.field(layer.values)
    return [
        _surface(layer, frame, values, sign, colour)
        for sign, colour in zip(signs, colours, strict=True)
    ]


def _surface(layer: Layer, frame: Frame, values: np.ndarray, sign: int, colour: int) -> Drawable:
    """Where ``sign`` times a field is at the level."""
    import k3d

    painted = {}
    if layer.paint is not None:
        paint = shortened(frame.field(layer.paint.values), 0.0)
        reach = layer.paint.reach
        painted = {"attribute": paint.T, "color_map": _color_map(), "color_range": [-reach, reach]}
    # k3d's first axis is our last; its surfaces face outwards where values fall towards the inside.
    return k3d.marching_cubes(
        shortened(-sign * values, layer.lowest).T,
        level=-layer.level,
        color=0xFFFFFF if painted else colour,
        opacity=OPACITY,
        flat_shading=False,
        model_matrix=frame.matrix(),
        visible=False,  # until page.js has put everything in its place
        **painted,
    )


def _color_map() -> list[float]:
    """As k3d takes it: place, red, green, blue, for each colour."""
    places = np.linspace(0.0, 1.0, len(COLOURS))
    return [float(x) for x in np.column_stack([places, COLOURS]).ravel()]


def _described(
    scene: Scene, seen: Balls, structure: list[Drawable], surfaces: list[list[Drawable]]
) -> dict[str, object]:
    """What page.js has to know."""
    layers = zip(scene.layers, surfaces, strict=True)
    return {
        "title": scene.title,
        "beside": scene.beside,
        "structure": [drawn.id for drawn in structure],
        "ends": seen.ends.tolist(),
        "opacity": OPACITY,
        "gradient": [_hex(_packed(colour)) for colour in COLOURS],
        "atoms": _names(scene, seen),
        "colourings": _colourings(scene, seen),
        "layers": [_layer(layer, drawn) for layer, drawn in layers],
    }


def _layer(layer: Layer, drawn: list[Drawable]) -> dict[str, object]:
    paint = layer.paint and {
        "title": layer.paint.title,
        "unit": layer.paint.unit,
        "reach": f"{layer.paint.reach:.3g}",
    }
    return {
        "title": layer.title,
        "unit": layer.unit,
        "level": layer.level,
        "lowest": layer.lowest,
        "highest": layer.highest,
        "signed": layer.signed,
        "colours": [_hex(ABOVE), _hex(BELOW)],
        "surfaces": [one.id for one in drawn],
        "paint": paint,
    }


def _names(scene: Scene, seen: Balls) -> list[dict[str, object]]:
    """What is said of each ball: `text` of one that is pointed at, `short` of all at once."""
    symbols, places = seen.atoms.get_chemical_symbols(), np.round(seen.atoms.positions, 4).tolist()
    radii = np.round(radii_of(seen.atoms), 4).tolist()
    names: list[dict[str, object]] = []
    for ball, owner in enumerate(seen.owners.tolist()):
        charges = {name: of_atoms[owner] for name, of_atoms in scene.charges.items()}
        text = [f"{symbols[ball]} {owner + 1}", *(f"{k} {q:+.3f} e" for k, q in charges.items())]
        short = [f"{symbols[ball]}{owner + 1}", *(f"{q:+.2f}" for q in [*charges.values()][:1])]
        names.append(
            {
                "text": ", ".join(text),
                "short": " ".join(short),
                "place": places[ball],
                "radius": radii[ball],
                "image": ball >= len(scene.atoms),
            }
        )
    return names


def _colourings(scene: Scene, seen: Balls) -> list[Colouring]:
    """By charges, if there are some, and by elements."""
    by_charge: list[Colouring] = []
    for name, charges in scene.charges.items():
        reach = max(LEAST_REACH, float(np.abs(charges).max()))
        colours = [_packed(colour) for colour in of_shares(charges[seen.owners] / reach)]
        by_charge.append({"title": f"{name} charge", "colours": colours, "reach": f"{reach:.2g}"})
    return [*by_charge, {"title": "elements", "colours": _element_colours(seen), "reach": ""}]


def _element_colours(seen: Balls) -> list[int]:
    """0xRRGGBB of each ball; on a white page hydrogen is a little grey."""
    from ase.data.colors import jmol_colors

    return [_packed(0.9 * jmol_colors[number]) for number in seen.atoms.numbers]


def _packed(colour: np.ndarray) -> int:
    red, green, blue = (round(255 * float(channel)) for channel in colour)
    return (red << 16) + (green << 8) + blue


def _hex(colour: int) -> str:
    return f"#{colour:06x}"
