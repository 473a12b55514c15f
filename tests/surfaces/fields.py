"""Fields of which every surface is known, and what a page holds of them."""

from __future__ import annotations

import base64
import json
import re
import zlib
from typing import Any

import numpy as np
from ase import Atoms

from neupol_cli.io.volumetric import Grid
from neupol_cli.surfaces.scene import Layer, Scene, density_layer

CENTRE = np.array([0.4, -0.3, 1.1])
STEP = np.array([[0.20, 0.01, 0.0], [0.0, 0.19, 0.03], [0.02, 0.0, 0.18]])
SHAPE = (41, 37, 45)


def grid() -> Grid:
    """A skewed grid around CENTRE, different along each axis."""
    return Grid(CENTRE - 0.5 * (np.array(SHAPE) - 1.6) @ STEP, STEP, SHAPE)


def distances() -> np.ndarray:
    """Of each point of the grid from CENTRE, Angstrom."""
    return np.linalg.norm(grid().points() - CENTRE, axis=1).reshape(SHAPE)


def gaussian() -> np.ndarray:
    """exp(-r^2), e/Angstrom^3, whose surface at a level L is a ball of radius `radius(L)`."""
    return np.exp(-(distances() ** 2))


def radius(level: float) -> float:
    """Of the surface of the Gaussian at a level, Angstrom."""
    return float(np.sqrt(-np.log(level)))


def scene(*layers: Layer, **settings: Any) -> Scene:
    """An oxygen atom in the Gaussian, or in other fields."""
    atom = Atoms("O", [CENTRE])
    return Scene("a <b>ball</b>", atom, grid(), layers or (density_layer(gaussian()),), **settings)


def objects(page: str) -> list[dict[str, Any]]:
    """What k3d is to draw."""
    import msgpack

    found = re.search(r"var data = '([^']*)'", page)
    assert found is not None
    return msgpack.unpackb(zlib.decompress(base64.b64decode(found[1])))["objects"]


def described(page: str) -> dict[str, Any]:
    """What page.js is told."""
    found = re.search(r"const plot = K3DInstance, scene = (\{.*\});\n", page)
    assert found is not None
    return json.loads(found[1])


def array(stored: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(stored["data"], stored["dtype"]).reshape(stored["shape"])


def places(surface: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Points (n3, n2, n1, 3) of a surface's field where k3d puts them, and their values."""
    values, matrix = array(surface["scalar_field"]), array(surface["model_matrix"]).reshape(4, 4)
    third, second, first = (np.linspace(-0.5, 0.5, n) for n in values.shape)
    unit = np.stack(np.meshgrid(first, second, third, indexing="ij"), axis=-1).transpose(2, 1, 0, 3)
    return unit @ matrix[:3, :3].T + matrix[:3, 3], values
