"""The matrix products over neighbourhoods against the sums that they stand for."""

from __future__ import annotations

import torch

from neupol_cli.models.charge3net.irreps import Path
from neupol_cli.models.charge3net.tensor_product import Coupling
from neupol_cli.models.nn.wigner import wigner_3j

PATHS = [Path((1, -1), 0, (1, -1)), Path((1, -1), 1, (0, 1)), Path((1, -1), 1, (2, 1))]


def operands() -> tuple[torch.Tensor, ...]:
    """Harmonics, senders and weights of two atoms with three neighbours."""
    torch.manual_seed(0)
    shapes = ((2, 3, 4), (6, 3, 2), (6, 6))
    return tuple(torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes)


def test_a_coupling_sums_its_paths() -> None:
    harmonics, sent, weights = operands()
    by_path = weights.view(2, 3, 3, 2).unbind(2)  # (A, K, u) each
    found = Coupling((1, -1), PATHS, 1)(harmonics, sent, weights)
    for path, summed, radial in zip(PATHS, found, by_path, strict=True):
        l2, l3 = path.degree, path.irrep[0]
        y = harmonics[..., l2**2 : (l2 + 1) ** 2]
        symbol = wigner_3j(1, l2, l3) * (2 * l3 + 1) ** 0.5
        x = sent.view(2, 3, 3, 2)
        expected = torch.einsum("mnp,akmu,akn,aku->apu", symbol, x, y, radial)
        torch.testing.assert_close(summed, expected, rtol=0, atol=1e-13)


def test_a_coupling_is_differentiable() -> None:
    assert torch.autograd.gradcheck(Coupling((1, -1), PATHS, 1), operands())
