"""What several models say of some structures together, as one.

    y    the mean of M models' answers, of n components each (1 of a number, 3 of a vector or force)
    s    the root of the components' summed sample variances, how far the models scatter
    h    max(mean of the models' own half-widths, s sqrt((M - 1) X(n) / X(n (M - 1))))

X(k) is what a chi-square of k degrees of freedom exceeds in one case of ten. Were the models off
independently of each other, by what their own half-widths say, s would widen h in one case of ten
and the more the more they contradict each other: of two numbers h is at least s, of many 1.64 s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from neupol_cli.models.calibration import LEVEL
from neupol_cli.models.property import UNCERTAINTY


@dataclass(frozen=True)
class Columns:
    """By property: means, (N,) or (N, 3); (N,) spreads and uncertainties, where there are any.

    Of forces, N atoms.
    """

    means: dict[str, np.ndarray] = field(default_factory=dict)
    spreads: dict[str, np.ndarray] = field(default_factory=dict)
    uncertainties: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Answers:
    """What the models say of some structures together: properties; forces and (N, 3, 3) stress
    where asked for."""

    properties: Columns
    forces: Columns
    stress: np.ndarray | None


def combined(answers: Sequence[dict[str, np.ndarray]], names: Iterable[str]) -> Columns:
    """Those of some names that somebody answered."""
    columns = Columns()
    for name in names:
        answering = [answer for answer in answers if name in answer]
        if not answering:
            continue
        values = np.array([answer[name] for answer in answering])
        columns.means[name] = np.mean(values, axis=0)
        if len(values) > 1:
            columns.spreads[name] = _spread(values)
        if all(name + UNCERTAINTY in answer for answer in answering):
            # The mean is off by no more than they are on average.
            halves = np.mean([answer[name + UNCERTAINTY] for answer in answering], axis=0)
            columns.uncertainties[name] = np.maximum(halves, _scatter(values))
    return columns


def _spread(values: np.ndarray) -> np.ndarray:
    """(M, N) or (M, N, 3) of M models -> (N,); of a vector the length of its components' spreads,
    which is the same in every frame."""
    spread = np.std(values, axis=0, ddof=1)
    return spread if spread.ndim == 1 else np.linalg.norm(spread, axis=1)


def _scatter(values: np.ndarray) -> np.ndarray:
    """(M, N) or (M, N, 3) of M models -> (N,) the half-widths that explain how far they scatter;
    zero of a single one, which does not."""
    models, components = len(values), 1 if values.ndim == 2 else values.shape[2]
    if models == 1:
        return np.zeros(values.shape[1])
    from scipy.special import chdtri

    free = components * (models - 1)
    share = (models - 1) * chdtri(components, 1 - LEVEL) / chdtri(free, 1 - LEVEL)
    return np.sqrt(share) * _spread(values)
