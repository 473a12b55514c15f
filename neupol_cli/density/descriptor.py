"""Where atoms interact, read from a density's own slopes: IRI, DORI, Laplacian and Hessian.

Derivatives are the model's own (derivatives.py), in float64, not differences on a grid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli.errors import UsageError
from neupol_cli.io.units import BOHR
from neupol_cli.io.volumetric import Grid

if TYPE_CHECKING:
    from ase import Atoms

    from neupol_cli.models.density.model import DensityModel

# Below this density a network's slopes are noise, and the indicators divide by it.
VACUUM = 5e-5 / BOHR**3  # e/Angstrom^3, 5e-5 atomic units
TENSOR = ("xx", "yy", "zz", "xy", "xz", "yz")  # columns of a Hessian

# name -> (unit, value where there is next to no density)
DESCRIPTORS = {
    "iri": ("atomic units", 5.0),
    "dori": ("1", 0.0),
    "laplacian": ("e/Angstrom^5", 0.0),
    "hessian": ("e/Angstrom^5", 0.0),
}
SLOPES_ALONE = ("iri",)  # these read no Hessian


def iri(density: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Interaction region indicator |grad rho| / rho^1.1, (P,), in atomic units.

    Lu, Chen, Chem. Methods 1, 231 (2021). Not finite where the density is not positive.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.linalg.norm(slope, axis=1) / density**1.1
    return np.asarray(ratio * BOHR**0.7)  # bohr^-4 over bohr^-3.3


def dori(density: np.ndarray, slope: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Density overlap regions indicator, (P,), between 0 and 1; 0 where it would be 0/0.

    phi / (1 + phi), phi = |grad theta|^2 / theta^3, theta = |grad rho / rho|^2.
    de Silva, Corminboeuf, J. Chem. Theory Comput. 10, 3745 (2014).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        k = slope / density[:, None]  # (P, 3)
        spread = hessian / density[:, None, None] - k[:, :, None] * k[:, None, :]
        theta = (k**2).sum(axis=1)
        turn = ((2 * spread @ k[:, :, None])[:, :, 0] ** 2).sum(axis=1)  # |grad theta|^2
        indicator = turn / (theta**3 + turn)
    return np.nan_to_num(indicator, nan=0.0, posinf=0.0, neginf=0.0)


def columns(
    name: str, density: np.ndarray, slope: np.ndarray, hessian: np.ndarray
) -> list[np.ndarray]:
    """The descriptor's values, (P,) each: one column, or the six of a Hessian (see TENSOR)."""
    if name == "hessian":
        places = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
        return [hessian[:, i, j] for i, j in places]
    makers: dict[str, Callable[[], np.ndarray]] = {
        "iri": lambda: iri(density, slope),
        "dori": lambda: dori(density, slope, hessian),
        "laplacian": lambda: np.trace(hessian, axis1=1, axis2=2),
    }
    empty = DESCRIPTORS[name][1]
    values = makers[name]()
    masked = name in ("iri", "dori")  # these divide by the density
    return [np.where(density > VACUUM, values, empty) if masked else values]


def on_grid(
    name: str,
    model: DensityModel,
    atoms: Atoms,
    grid: Grid,
    memory: int,
    progress: Callable[[int], None],
) -> list[np.ndarray]:
    """A descriptor's columns on a grid, (n1, n2, n3) float32 each.

    Args:
        name: one of DESCRIPTORS.
        model: a density network in float64.
        atoms: the structure.
        grid: where the descriptor is wanted.
        memory: bytes for what derivatives need besides the result.
        progress: is told the points that are done.

    Raises:
        UsageError: an unknown name.
        TemporaryError: even the smallest blocks run out of memory.
    """
    from neupol_cli.density.derivatives import Field

    check_name(name)
    field = Field(model, atoms, memory, second=name not in SLOPES_ALONE)
    empty = columns(name, *field.empty)
    tables = [np.full(grid.size, values[0], dtype=np.float32) for values in empty]
    for done, rows, block in field.blocks(grid):
        for table, values in zip(tables, columns(name, *block), strict=True):
            table[rows.cpu().numpy()] = values
        progress(done)
    progress(grid.size)
    return [table.reshape(grid.shape) for table in tables]


def check_name(name: str) -> None:
    """UsageError for a descriptor that does not exist; the message lists those that do."""
    if name not in DESCRIPTORS:
        raise UsageError(f"a descriptor is one of {', '.join(DESCRIPTORS)}, not '{name}'")
