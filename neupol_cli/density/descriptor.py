"""Where atoms interact, read from a density's own slopes: IRI, DORI, Laplacian and Hessian.

Derivatives are the model's own, by automatic differentiation in float64, not differences on a grid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from neupol_cli.errors import TryAgain, Usage
from neupol_cli.units import BOHR
from neupol_cli.volumetric import Grid

if TYPE_CHECKING:
    from ase import Atoms
    from torch import Tensor

# Below this density a network's slopes are noise, and the indicators divide by it.
VACUUM = 5e-5 / BOHR**3  # e/Angstrom^3, 5e-5 atomic units
POINTS = 4096  # at once
TENSOR = ("xx", "yy", "zz", "xy", "xz", "yz")  # columns of a Hessian

# name -> (unit, value where there is next to no density)
DESCRIPTORS = {
    "iri": ("atomic units", 5.0),
    "dori": ("1", 0.0),
    "laplacian": ("e/Angstrom^5", 0.0),
    "hessian": ("e/Angstrom^5", 0.0),
}


def derivatives(
    model: Any, atoms: Atoms, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Density (P,) e/Angstrom^3, gradient (P, 3) and Hessian (P, 3, 3) at points (P, 3) Angstrom.

    ``model(graph, probes)`` must be twice differentiable by its probes; its weights decide the
    type of number, and float64 is meant.
    """
    import torch

    from neupol_cli.models.graph import Graph

    like = next(model.parameters())
    graph = Graph.from_atoms([atoms], like.dtype, like.device)
    probes = torch.as_tensor(points, dtype=like.dtype, device=like.device)[None]
    probes.requires_grad_(True)
    found = model(graph, probes)
    density = found if found.dim() == 1 else found[:, 0]
    slope = _gradient(density.sum(), probes, True)
    rows = [_gradient(slope[:, axis].sum(), probes, axis < 2) for axis in range(3)]
    hessian = torch.stack(rows, dim=1)  # (P, 3, 3)
    arrays = [item.detach().cpu().double().numpy() for item in (density, slope, hessian)]
    return arrays[0], arrays[1], arrays[2]


def _gradient(value: Tensor, probes: Tensor, more: bool) -> Tensor:
    """(P, 3): the slope of a sum over probes, to be differentiated again where ``more``."""
    import torch

    if not value.requires_grad:  # every probe is out of every atom's reach
        return torch.zeros_like(probes[0])
    (found,) = torch.autograd.grad(value, probes, create_graph=more, materialize_grads=True)
    return found[0]


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
        found = turn / (theta**3 + turn)
    return np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)


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
    name: str, model: Any, atoms: Atoms, grid: Grid, progress: Callable[[int], None]
) -> list[np.ndarray]:
    """A descriptor's columns on a grid, (n1, n2, n3) float32 each.

    Errors: Usage for an unknown name, TryAgain when memory runs out.
    """
    check_name(name)
    count = len(TENSOR) if name == "hessian" else 1
    tables = [np.empty(grid.size, dtype=np.float32) for _ in range(count)]
    for start in range(0, grid.size, POINTS):
        stop = min(start + POINTS, grid.size)
        try:
            found = derivatives(model, atoms, grid.points(start, stop))
        except (MemoryError, RuntimeError) as trouble:
            if "memory" not in str(trouble).lower() and str(trouble):
                raise
            raise TryAgain("out of memory: a descriptor needs second derivatives") from trouble
        for table, values in zip(tables, columns(name, *found), strict=True):
            table[start:stop] = values
        progress(stop)
    return [table.reshape(grid.shape) for table in tables]


def check_name(name: str) -> None:
    """Usage for a descriptor that does not exist; the message lists those that do."""
    if name not in DESCRIPTORS:
        raise Usage(f"--descriptor is one of {', '.join(DESCRIPTORS)}, not '{name}'")
