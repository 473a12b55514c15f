"""How far off an answer may be: half of an interval that holds nine truths in ten.

    f    (F,) the mean of a structure's atoms' invariants, and the log of their number
    z    (F + 1,) W (f - m), so that training structures have mean 0 and covariance 1, and log d
    d    the root mean square of W (f - m): a Mahalanobis distance, about 1 for training structures
    h_t  exp(clip(a_t + b_t . z)) max(1, d / d_0)

a_t and b_t are a ridge regression of the logarithm of the errors of unseen structures; clip keeps
to what it said of those; d_0 is farther than 99 in 100 of them are. The scale, which is in a_t, is
cross-conformal (Vovk, Ann. Math. Artif. Intell. 2015, 74, 9; Lei et al., J. Am. Stat. Assoc. 2018,
1094): of structures like those, nine in ten are within h, whatever the regression missed.

Of forces the same, atom by atom: f is (F,) an atom's invariants and the log of its force, the error
is the length of the vector between the predicted and the true force, and h the radius of a ball
around the predicted one. Of densities, too: f is (F,) an atom's invariants after every layer, the
error the integral of |rho - rho'| over all that is nearer to it than to other atoms, in electrons.
Atoms of a structure are alike: they are left out of a regression together, and the scale is the one
that holds nine in ten atoms of a structure that was left out (pooled, as in Dunn, Wasserman,
Ramdas, J. Am. Stat. Assoc. 2023, 2491).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from neupol_cli.models.nn.graph import Graph, segment_sum

LEVEL = 0.9
PREFIX = "calibration."  # of its tensors in a checkpoint
FORCE_PREFIX = "force_calibration."
ATOM_PREFIX = "atom_calibration."  # of densities


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
    ours = (PREFIX, FORCE_PREFIX, ATOM_PREFIX)
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
    shares = torch.empty_like(errors)
    for fold in (structures % FOLDS).unique():
        out = structures % FOLDS == fold
        shares[out] = errors[out] / _regressed(base, unseen[~out], errors[~out])(unseen[out])
    calibration = _regressed(base, unseen, errors)
    widen = _conformal(shares, structures).log()
    for logs in (calibration.offset, calibration.low, calibration.high):
        logs += widen
    return calibration


FOLDS = 10  # parts of the structures, each held against what was learnt from the others
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
    penalties = torch.full_like(centre, strength)
    penalties[-1] = 1.0  # next to none for log d, which tells the most
    gram = (z - centre).t() @ (z - centre) + penalties.diag()
    slope = torch.linalg.solve(gram, (z - centre).t() @ (logs - mean)).t()
    regressed = Calibration(features.shape[1], errors.shape[1]).to(z)
    regressed.load_state_dict(base.state_dict())
    regressed.slope.copy_(slope)
    regressed.offset.copy_(mean - slope @ centre)
    learnt = regressed.offset + z @ slope.t()
    regressed.low.copy_(learnt.min(0).values)
    regressed.high.copy_(learnt.max(0).values)
    return regressed


def _conformal(shares: Tensor, structures: Tensor) -> Tensor:
    """What makes half-widths hold `LEVEL` of new rows.

    The share of all other structures' rows that lie below a row is its level; nine in ten rows of a
    structure left out are below that level of the rest, and so are those of one more structure.
    With one row a structure it is the rank ceil(0.9 (v + 1)) of v.

    Args:
        shares: (v, T) errors over half-widths.
        structures: (v,) which one each row is of.

    Returns:
        (T,) factors.
    """
    count, levels = len(shares), _below(shares, shares)
    for structure in structures.unique():
        rows = structures == structure
        own = shares[rows]
        levels[rows] = (levels[rows] - _below(own, own)) / (count - len(own))
    level = levels.sort(0).values[math.ceil(LEVEL * count) - 1]
    place = (level * count).ceil().long().clamp_max(count - 1)
    return shares.sort(0).values.gather(0, place[None])[0].clamp_min(1e-12)


def _below(rows: Tensor, values: Tensor) -> Tensor:
    """(v, T) rows and (n, T) values -> (n, T) how many of a column are smaller, in float64."""
    ordered = rows.t().contiguous().sort(1).values
    return torch.searchsorted(ordered, values.t().contiguous()).t().double()
