"""The potential of charges on a grid, by Fourier transforms.

The charges at the points of a grid are taken for a smooth density, the one with no waves shorter
than the grid can hold. Its potential is its convolution with 1/r, a product in Fourier space:

- *periodic*: 4 pi / G^2, without G = 0: the mean is zero, and a net charge is compensated by a
  uniform one.
- *open*: the grid is padded with zeros to twice its size, and 1/r = erf(a r)/r + erfc(a r)/r. The
  first part is smooth and is sampled at the points; the second has ended before the padding does,
  and is 4 pi (1 - exp(-G^2 / 4 a^2)) / G^2 (Martyna and Tuckerman, J. Chem. Phys. 110, 2810, 1999).
- *slab*, open along one axis: 1/r ends where |z| = R, beyond which there are no charges
  (Rozzi et al., Phys. Rev. B 73, 205119, 2006; Sohier et al., Phys. Rev. B 96, 075448, 2017).
"""

from __future__ import annotations

import numpy as np
from scipy.fft import irfftn, next_fast_len, rfftn
from scipy.special import erf

from neupol_cli.errors import InputError
from neupol_cli.io.units import BOHR, HARTREE
from neupol_cli.io.volumetric import Grid

COULOMB = HARTREE * BOHR  # V Angstrom/e: the potential of a charge is COULOMB q / r
# With exp(-LEAST^2) and erfc(LEAST) both parts of 1/r have ended: 1e-10 and 1e-11.
LEAST = 4.8
NO_WIRE = "a wire (periodic along one direction) has no potential here; give it a cell with vacuum"


def potential(charges: np.ndarray, grid: Grid, periodic: np.ndarray, beyond: int = 0) -> np.ndarray:
    """The potential of charges on a grid.

    Args:
        charges: (n1, n2, n3) e at each point.
        grid: where they are; along periodic axes it is repeated as it is.
        periodic: (3,) which axes are.
        beyond: along open axes, so many points more on both sides are answered.

    Returns:
        V, along open axes 2 x beyond points more than there are charges.

    Raises:
        InputError: one axis is periodic.
    """
    if periodic.sum() == 1:
        raise InputError(NO_WIRE)
    open_axes = ~periodic
    wanted = tuple(n + 2 * beyond * o for n, o in zip(charges.shape, open_axes, strict=True))
    if periodic.all():
        shape, kernel = wanted, _periodic(grid.step, wanted)
    elif periodic.any():
        shape, kernel = _slab(grid.step, wanted, int(open_axes.argmax()))
    else:
        shape, kernel = _open(grid.step, wanted)
    padding = [(beyond * int(o), 0) for o in open_axes]
    waves = rfftn(np.pad(charges, padding), shape, overwrite_x=True)
    waves *= kernel
    answer = irfftn(waves, shape, overwrite_x=True)[tuple(slice(n) for n in wanted)]
    return np.asarray(answer * (COULOMB / grid.element))


def _waves(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Waves along each axis by their number in the grid, less a half at most."""
    return [np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), np.fft.rfftfreq(shape[2])]


def _reciprocal(step: np.ndarray) -> np.ndarray:
    """Rows (3, 3) 1/Angstrom: the waves with one period a step."""
    return np.asarray(2 * np.pi * np.linalg.inv(step).T)


def _squares(counts: list[np.ndarray], vectors: np.ndarray) -> np.ndarray:
    """Squared lengths (n1, n2, n3) of multiples (n1,), (n2,), (n3,) of three vectors (3, 3)."""
    i, j, k = np.ix_(*counts)
    metric = vectors @ vectors.T
    plane = metric[0, 0] * i * i + 2 * metric[0, 1] * i * j + metric[1, 1] * j * j
    tilt = 2 * (metric[0, 2] * i + metric[1, 2] * j)
    squares = k * (tilt + metric[2, 2] * k)
    squares += plane
    return np.asarray(squares)


def _periodic(step: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    squares = _squares(_waves(shape), _reciprocal(step))
    squares[0, 0, 0] = np.inf
    return np.asarray(4 * np.pi / squares)


def _open(step: np.ndarray, wanted: tuple[int, ...]) -> tuple[tuple[int, ...], np.ndarray]:
    """Padded shape, and the kernel there."""
    narrowness = _shortest(_reciprocal(step)) / (4 * LEAST)  # a, 1/Angstrom
    shape = tuple(next_fast_len(2 * n, True) for n in wanted)
    squares = _squares(_waves(shape), _reciprocal(step))
    squares[0, 0, 0] = 1.0
    kernel = -4 * np.pi * np.expm1(-squares / (4 * narrowness**2)) / squares
    kernel[0, 0, 0] = np.pi / narrowness**2
    smooth = rfftn(_smooth(step, shape, narrowness), overwrite_x=True)
    kernel += abs(np.linalg.det(step)) * smooth.real
    return shape, kernel


def _shortest(vectors: np.ndarray) -> float:
    """The shortest vector of the lattice that three vectors (3, 3) span."""
    counts = np.array(np.meshgrid(*[(-1, 0, 1)] * 3)).reshape(3, -1).T
    lengths = np.linalg.norm(counts @ vectors, axis=1)
    return float(lengths[lengths > 0].min())


def _smooth(step: np.ndarray, shape: tuple[int, ...], narrowness: float) -> np.ndarray:
    """erf(a r) / r at the points of a grid, displacements going both ways from its first one."""
    distances = np.sqrt(_squares([np.fft.fftfreq(n, 1 / n) for n in shape], step))
    distances[0, 0, 0] = 1.0
    values = erf(narrowness * distances) / distances
    values[0, 0, 0] = 2 * narrowness / np.sqrt(np.pi)
    return np.asarray(values)


def _slab(
    step: np.ndarray, wanted: tuple[int, ...], axis: int
) -> tuple[tuple[int, ...], np.ndarray]:
    """Padded shape along the open axis, and the kernel there."""
    shape = tuple(
        next_fast_len(2 * n, True) if other == axis else n for other, n in enumerate(wanted)
    )
    normal = np.linalg.inv(step)[:, axis]
    normal /= np.linalg.norm(normal)
    reach = wanted[axis] * abs(float(step[axis] @ normal))  # R, Angstrom
    counts, reciprocal = _waves(shape), _reciprocal(step)
    i, j, k = np.ix_(*counts)
    first, second, third = reciprocal @ normal
    across = i * first + j * second + k * third
    within = reciprocal - np.outer(reciprocal @ normal, normal)
    within[axis] = 0.0  # but for rounding, as its vector is the normal's
    return shape, _truncated(_squares(counts, within), across, reach)


def _truncated(squares: np.ndarray, across: np.ndarray, reach: float) -> np.ndarray:
    """1/r up to |z| = R, of waves (n1, n2, n3) across the slab and squared ones along it; without
    its infinite part."""
    uniform = squares == 0.0  # the same everywhere in a plane
    along = np.sqrt(np.where(uniform, 1.0, squares))
    phase = across * reach
    ends = np.exp(-along * reach) * (across / along * np.sin(phase) - np.cos(phase))
    ends = np.where(uniform, -np.cos(phase) - phase * np.sin(phase), ends)
    squares = squares + across**2
    nothing = squares == 0.0
    kernel = 4 * np.pi * (1.0 + ends) / np.where(nothing, 1.0, squares)
    return np.where(nothing, -2 * np.pi * reach**2, kernel)
