"""Conformers of a molecule, predicted each and averaged as a gas has them.

    w_k   exp(-E_k / kT), their sum 1, T = 298.15 K: of the model's own energies (energy or U0), of
          the force field's where it has none
    y     sum_k w_k y_k; of a vector its length, as <|mu|>: conformers have no common frame
    s     sqrt(sum_k w_k (y_k - y)^2), how far a property spreads over the conformers
    h     sqrt((sum_k w_k h_k)^2 + sum_k (w_k (y_k - y) h_Ek / kT)^2), half of an interval

The first term of h is of errors that all conformers share, the second one of weights that are wrong
by what the energies' own half-widths h_Ek say, each conformer's for itself; its root is never more
than the largest |y_k - y|, since a weighted average is within its values. A force field's energies
have no widths: the second is missing then.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from ase import Atoms

from neupol_cli.io import units
from neupol_cli.io.hdf5 import Target
from neupol_cli.io.said import CONFORMERS
from neupol_cli.io.structure_formats.embedding import Conformers
from neupol_cli.prediction.committee import Prediction
from neupol_cli.prediction.ensemble import TEMPERATURE, Ensemble, boltzmann
from neupol_cli.targets import ENERGIES, target

Named = tuple[str, Atoms]
# Predictions of any number of structures, in order.
Work = Callable[[Iterable[Named]], Iterator[Prediction]]


def averaged(work: Work, named: Iterable[Named]) -> Iterator[Prediction]:
    """A prediction for each molecule, over its conformers.

    Args:
        work: predicts any number of structures, in order, without forces.
        named: molecules with conformers in their info.
    """
    begun: deque[Conformers] = deque()

    def each() -> Iterator[Named]:
        for label, atoms in named:
            begun.append(atoms.info.pop(CONFORMERS))
            for positions in begun[-1].positions:
                image = atoms.copy()
                image.positions = positions
                yield label, image

    answers = work(each())
    for first in answers:
        conformers = begun.popleft()
        others = islice(answers, len(conformers.energies) - 1)
        yield _average([first, *others], conformers)


def _average(answers: Sequence[Prediction], conformers: Conformers) -> Prediction:
    """One answer of all conformers', with the atoms of the lowest energy."""
    said = list(map(_numbers, answers))
    energies, source = _energies(said, conformers)
    weights = boltzmann(energies)
    first = said[0]
    columns = {name: _column(said, name) for name in first.values}
    deviations = {name: _deviation(column, weights) for name, column in columns.items()}
    return replace(
        answers[int(np.argmin(energies))],
        values={
            n: Target(np.asarray(weights @ c), first.values[n].unit) for n, c in columns.items()
        },
        spread={n: _mean([one.spread[n] for one in said], weights) for n in first.spread},
        uncertainty={n: _half_width(said, n, weights, source) for n in first.uncertainty},
        doubts=_doubts(answers),
        ensemble=Ensemble(weights, conformers.tried, source, deviations),
    )


def _column(said: Sequence[Prediction], name: str) -> np.ndarray:
    """(K,) a property of each conformer."""
    return np.array([float(one.values[name].values) for one in said])


def _mean(values: Sequence[float], weights: np.ndarray) -> float:
    return float(weights @ np.array(values))


def _deviation(column: np.ndarray, weights: np.ndarray) -> float:
    """The standard deviation of (K,) values over conformers of these weights."""
    return float(np.sqrt(weights @ (column - weights @ column) ** 2))


def _doubts(answers: Sequence[Prediction]) -> tuple[str, ...] | None:
    """Those of all conformers, each once: a doubtful one may have a wrong weight."""
    reasons = [reason for answer in answers for reason in answer.doubts or ()]
    known = any(answer.doubts is not None for answer in answers)
    return tuple(dict.fromkeys(reasons)) if known else None


def _numbers(answer: Prediction) -> Prediction:
    """The same with lengths in place of vectors, under the lengths' names; a vector's ball is as
    wide as its length's interval may be."""
    names = {n: target(n).length for n, t in answer.values.items() if t.values.ndim}
    values, spread, half = dict(answer.values), dict(answer.spread), dict(answer.uncertainty)
    for name, length in names.items():
        vector = values.pop(name)
        values.setdefault(length, Target(np.asarray(np.linalg.norm(vector.values)), vector.unit))
        for table in (spread, half):
            if name in table:
                table.setdefault(length, table.pop(name))
    return replace(answer, values=values, spread=spread, uncertainty=half)


def _energies(said: Sequence[Prediction], conformers: Conformers) -> tuple[np.ndarray, str]:
    """(K,) eV, and whose: a target's name, or a force field's."""
    name = next((name for name in ENERGIES if name in said[0].values), None)
    if name is None:
        return conformers.energies, conformers.field
    return units.convert(_column(said, name), said[0].values[name].unit, "eV"), name


def _half_width(said: Sequence[Prediction], name: str, weights: np.ndarray, source: str) -> float:
    """Half of an average's interval.

    Args:
        said: what is said of each conformer.
        name: of a property.
        weights: (K,) of the conformers.
        source: of the energies behind them.
    """
    shared = _mean([one.uncertainty[name] for one in said], weights)
    if source not in said[0].uncertainty:
        return shared
    column, unit = _column(said, name), said[0].values[source].unit
    apart = column - weights @ column
    widths = np.array([units.convert(one.uncertainty[source], unit, "eV") for one in said])
    of_weights = np.linalg.norm(widths * weights * apart) / (units.BOLTZMANN * TEMPERATURE)
    return float(np.hypot(shared, min(of_weights, np.abs(apart).max())))


def told(predictions: Iterator[Prediction]) -> Iterator[Prediction]:
    """The same; what weights conformers have is said on stderr, once each."""
    noted = set()
    for prediction in predictions:
        assert prediction.ensemble is not None
        source = prediction.ensemble.weighted_by
        if source not in noted:
            noted.add(source)
            lacking = "" if source in prediction.values else ", as no model has an energy"
            print(
                f"neupol: averages over conformers at {TEMPERATURE} K, weighted by {source}"
                f"{lacking}; what is in brackets is their standard deviation",
                file=sys.stderr,
            )
        yield prediction
