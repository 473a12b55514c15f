"""Real spherical harmonics and the Wigner 3j symbols that couple them, as dense products.

Conventions are e3nn's: 'component' normalisation, |Y_l|^2 = 2l + 1 on the unit sphere, with
Y_1 = sqrt3 (x, y, z); l ascending, m from -l to l.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from neupol_cli.models.nn.wigner import wigner_3j


class Constant:
    """A table, of float64 or of indices, that follows the tensors it meets.

    It is no buffer: a model that goes to float32 and back must find its constants exact.
    """

    def __init__(self, exact: Tensor) -> None:
        self.exact = exact
        self.casts: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def like(self, other: Tensor) -> Tensor:
        """The table in the other tensor's type, on its device."""
        return self._cast(other.dtype, other.device)

    def beside(self, other: Tensor) -> Tensor:
        """The table in its own type, on the other tensor's device."""
        return self._cast(self.exact.dtype, other.device)

    def _cast(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        if (dtype, device) not in self.casts:
            self.casts[dtype, device] = self.exact.to(device, dtype)
        return self.casts[dtype, device]


class Harmonics(nn.Module):
    """Y_0 .. Y_lmax of unit vectors, each from the one before it and Y_1.

    Y_l = k_l (Y_{l-1} x Y_1)_l with one constant k_l: the product's part of degree l is a
    harmonic, and there is one for each m. Vectors of length zero give Y_0 = 1 and zero otherwise.
    """

    def __init__(self, lmax: int) -> None:
        super().__init__()
        self.lmax = lmax
        self.couplings: list[Constant] = []
        pole = torch.tensor([[0.0, math.sqrt(3), 0.0]], dtype=torch.float64)  # Y_1 at y = 1
        last = pole
        for degree in range(2, lmax + 1):
            coupling = wigner_3j(degree - 1, 1, degree).reshape(-1, 2 * degree + 1)
            raised = _outer(last, pole) @ coupling  # (1, 2l + 1), all of it in m = 0
            scale = math.sqrt(2 * degree + 1) / raised[0, degree]
            last = raised * scale
            self.couplings.append(Constant(coupling * scale))

    def forward(self, directions: Tensor) -> Tensor:
        """(E, 3) unit vectors -> (E, (lmax + 1)^2)."""
        first = directions * math.sqrt(3)
        degrees = [torch.ones_like(directions[:, :1]), first][: self.lmax + 1]
        for coupling in self.couplings:
            degrees.append(_outer(degrees[-1], first) @ coupling.like(directions))
        return torch.cat(degrees, 1)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """(E, i), (E, j) -> (E, i j)."""
    return (a[:, :, None] * b[:, None, :]).flatten(1)
