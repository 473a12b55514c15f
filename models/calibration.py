"""How far off an answer may be: half of an interval that holds nine truths in ten.

    f    (F,) the mean of a structure's atoms' invariants, and the log of their number
    z    (F + 1,) W (f - m), so that training structures have mean 0 and covariance 1, and log d
    d    the root mean square of W (f - m): a Mahalanobis distance, about 1 for training structures
    h_t  exp(clip(a_t + b_t . z)) max(1, d / d_0)

a_t and b_t are a ridge regression of the logarithm of the errors of unseen structures; clip keeps
to what it said of those; d_0 is farther than 99 in 100 of them are. The scale, which is in a_t, is
split-conformal (Vovk et al., Algorithmic Learning in a Random World, 2005; Lei et al., J. Am. Stat.
Assoc. 2018, 1094): of structures like those, nine in ten are within h, whatever the regression
missed.

Of forces the same, atom by atom: f is (F,) an atom's invariants and the log of its force, the error
is the length of the vector between the predicted and the true force, and h the radius of a ball
around the predicted one. Atoms of a structure are alike: they stay on one side of every split, and
the scale is that of atoms in structures, not of so many independent ones (Dunn, Wasserman, Ramdas,
J. Am. Stat. Assoc. 2023, 2491, pooled).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from neupol_cli.models.nn.graph import Graph, segment_sum

LEVEL = 0.9
PREFIX = "calibration."  # of its tensors in a checkpoint
FORCE_PREFIX = "force_calibration."


class Calibration(nn.Module):
    """Half-widths of T targets from F features.

    Attributes:
        mean: (F,) m.
        whitening: (F, F) W, transposed.
        slope, offset: (T, F + 1) and (T,), b and a.
        low, high: (T,) where a + b . z is clipped.
        far: d_0.
    """

    mean: Tensor
    whitening: Tensor
    slope: Tensor
    offset: Tensor
    low: Tensor
    high: Tensor
    far: Tensor

    def __init__(self, features: int, targets: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("whitening", torch.eye(features))
        self.register_buffer("slope", torch.zeros(targets, features + 1))
        for name in ("offset", "low", "high"):
            self.register_buffer(name, torch.zeros(targets))
        self.register_buffer("far", torch.ones(()))

    def described(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F) -> (B, F + 1) z and (B,) d."""
        white = (features - self.mean) @ self.whitening
        distance = white.square().mean(1).sqrt().clamp_min(1e-6)
        return torch.cat((white, distance.log()[:, None]), 1), distance

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, T) half-widths in the targets' units."""
        z, distance = self.described(features)
        logs = torch.addmm(self.offset, z, self.slope.t())
        logs = torch.minimum(torch.maximum(logs, self.low), self.high)
        return logs.exp() * (distance / self.far).clamp_min(1.0)[:, None]

    def tensors(self, prefix: str = PREFIX) -> dict[str, Tensor]:
        """As a checkpoint has them."""
        return {prefix + name: value for name, value in self.state_dict().items()}


def structure_features(invariants: Tensor, graph: Graph) -> Tensor:
    """(A, F - 1) of a graph's points -> (B, F) f: their sum an atom, and the log of the number of
    atoms."""
    counts = graph.counts.to(invariants.dtype)[:, None]
    sums = segment_sum(invariants, graph.batch, graph.size)
    return torch.cat((sums / counts, counts.log()), 1)


def force_features(invariants: Tensor, forces: Tensor, scale: Tensor) -> Tensor:
    """(A, F - 1) of atoms and (A, 3) the forces on them -> (A, F) what an atom is to the network.

    The invariants, and the log of 1 + |force| / scale.
    """
    sizes = torch.linalg.vector_norm(forces, dim=1, keepdim=True) / scale.to(forces.dtype)
    return torch.cat((invariants, sizes.log1p().to(invariants.dtype)), 1)


def without(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors but for those of its calibrations."""
    ours = (PREFIX, FORCE_PREFIX)
    return {name: value for name, value in tensors.items() if not name.startswith(ours)}


def fitted(
    known: Tensor, unseen: Tensor, errors: Tensor, structures: Tensor | None = None
) -> Calibration:
    """The calibration of a trained model.

    Args:
        known: (n, F) features of training structures, n > 1.
        unseen: (v, F) those of structures that it was not trained on, in random order.
        errors: (v, T) how far off it is there, none negative.
        structures: (v,) where the rows are atoms: of which structure each one is, counted from 0.

    Returns:
        In float64.
    """
    known, unseen, errors = known.double(), unseen.double(), errors.double()
    base = Calibration(known.shape[1], errors.shape[1]).double()
    base.mean.copy_(known.mean(0))
    base.whitening.copy_(_whitening(known - known.mean(0)))
    base.far.copy_(base.described(unseen)[1].quantile(0.99))
    if structures is None:
        structures = torch.arange(len(unseen), device=unseen.device)
    halves = structures % 2 == 0
    # Each half's errors against what was learnt from the other one.
    shares = [
        errors[~half] / _regressed(base, unseen[half], errors[half])(unseen[~half])
        for half in (halves, ~halves)
    ]
    calibration = _regressed(base, unseen, errors)
    widen = _conformal(torch.cat(shares), int(structures.unique().numel())).log()
    for logs in (calibration.offset, calibration.low, calibration.high):
        logs += widen
    return calibration


RIDGE, LEAST = 0.5, 500.0  # how strong: times the number of structures, and at least
SMALLEST = 1e-3  # of the median error: smaller ones are luck
SINGULAR = 1e-6  # of the mean variance: what an unused feature is taken to have


def _whitening(centred: Tensor) -> Tensor:
    """(n, F) -> (F, F) the inverse root of their covariance."""
    covariance = centred.t() @ centred / len(centred)
    floor = SINGULAR * covariance.diagonal().mean().clamp_min(1e-12)
    values, vectors = torch.linalg.eigh(covariance)
    return vectors / values.clamp_min(floor).sqrt()


def _regressed(base: Calibration, features: Tensor, errors: Tensor) -> Calibration:
    """The same with the ridge regression of the errors' logarithms."""
    z, _ = base.described(features)
    smallest = SMALLEST * errors.median(0).values.clamp_min(1e-12)
    logs = (errors + smallest).log()
    centre, mean = z.mean(0), logs.mean(0)
    strength = max(RIDGE * len(z), LEAST)
    gram = (z - centre).t() @ (z - centre) + strength * torch.eye(z.shape[1]).to(z)
    slope = torch.linalg.solve(gram, (z - centre).t() @ (logs - mean)).t()
    regressed = Calibration(features.shape[1], errors.shape[1]).to(z)
    regressed.load_state_dict(base.state_dict())
    regressed.slope.copy_(slope)
    regressed.offset.copy_(mean - slope @ centre)
    learnt = regressed.offset + z @ slope.t()
    regressed.low.copy_(learnt.min(0).values)
    regressed.high.copy_(learnt.max(0).values)
    return regressed


def _conformal(shares: Tensor, structures: int) -> Tensor:
    """(v, T) errors over half-widths -> (T,) what makes the latter hold `LEVEL` of new ones.

    A new structure is one more beside these: the rank is one of v + v / structures.
    """
    count = len(shares)
    rank = min(int(-(-LEVEL * (count + count / structures) // 1)), count)
    return shares.sort(0).values[rank - 1].clamp_min(1e-12)
