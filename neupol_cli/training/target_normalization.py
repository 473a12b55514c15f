"""What a network need not learn: element reference energies, a mean and a spread, per target.

y = scale * (what the network learns) + shift + sum over atoms of reference[species]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neupol_cli.errors import InputError, UsageError


@dataclass(frozen=True)
class TargetNormalization:
    """The three parts for T targets and S species, in the targets' units (float64).

    Attributes:
        references: (T, S). shift, scale: (T,).
    """

    references: np.ndarray
    shift: np.ndarray
    scale: np.ndarray

    def baseline(self, composition: np.ndarray) -> np.ndarray:
        """(N, S) atoms of each species -> (N, T): the answer of a network that says zero."""
        return composition @ self.references.T + self.shift

    def applied(self, values: np.ndarray, composition: np.ndarray) -> np.ndarray:
        """(N, T) values -> what the network learns, mean 0 and spread 1 over the training set."""
        return (values - self.baseline(composition)) / self.scale

    def tied(self, matrix: np.ndarray) -> TargetNormalization:
        """The same, but for targets that are their parts and nothing else: theirs are the parts'.

        ``matrix`` (T, T) is that of models/ties.py.
        """
        references, shift = self.references.copy(), self.shift.copy()
        whole = np.diag(matrix) == 0
        references[whole], shift[whole] = (matrix @ references)[whole], (matrix @ shift)[whole]
        return TargetNormalization(references, shift, self.scale)


@dataclass(frozen=True)
class Baseline:
    """What may be taken off a target before a network learns it.

    Attributes:
        references: elements' reference values, times how many atoms there are of each.
        mean: one number.
    """

    references: bool
    mean: bool


ANY = Baseline(references=True, mean=True)  # whatever the data bear out
SUM = Baseline(references=True, mean=False)  # over atoms and nothing else: fitted ones always stay
LEVEL = Baseline(references=False, mean=True)  # the same for two distant copies as for one
NOTHING = Baseline(references=False, mean=False)  # a length, which could never be less than a mean


def composition(numbers: np.ndarray, offsets: np.ndarray, species: tuple[int, ...]) -> np.ndarray:
    """(N, S) how many atoms of each species every structure has."""
    places = np.searchsorted(species, numbers)
    structure = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    size = (len(offsets) - 1) * len(species)
    table = np.bincount(structure * len(species) + places, minlength=size)
    return table.reshape(-1, len(species)).astype(np.float64)


def mean_deviation(values: np.ndarray) -> float:
    """Mean absolute deviation from the mean, which EGNN's recipe divides by."""
    return float(np.abs(values - values.mean()).mean())


def deviation(values: np.ndarray) -> float:
    """Standard deviation."""
    return float(values.std())


SPREADS: dict[str, Callable[[np.ndarray], float]] = {
    "auto": mean_deviation,
    "mad": mean_deviation,
    "std": deviation,
}
NONE = "none"  # neither spread nor mean
REFERENCES = ("fitted", "atoms", "none")


def normalization_of(
    values: np.ndarray,
    counts: np.ndarray,
    names: tuple[str, ...],
    references: str,
    spread: str,
    atoms: Mapping[str, np.ndarray],
    kinds: Sequence[Baseline],
) -> TargetNormalization:
    """The standardisation of a training set.

    Args:
        values: (N, T) targets. counts: (N, S) composition, see `composition`.
        names: (T) the targets.
        references: ``fitted`` (least squares on the composition, kept for the targets whose
            spread it at least halves), ``atoms`` (those of the data file) or ``none``.
        spread: ``mad`` (``auto`` is the same), ``std`` or ``none``: no mean either.
        atoms: (S,) reference values by target, for ``atoms``.
        kinds: (T) what may be taken off each target.

    Raises:
        UsageError: an unknown word.
        InputError: where ``atoms`` are asked for and not there.
    """
    if references not in REFERENCES:
        raise UsageError(f"--references is one of {', '.join(REFERENCES)}, not {references!r}")
    if spread not in (*SPREADS, NONE):
        raise UsageError(f"--scale is one of {', '.join((*SPREADS, NONE))}, not {spread!r}")
    if references == "atoms" and not any(name in atoms for name in names):
        there = ", ".join(atoms) or "none"
        raise InputError(
            f"no atomic references for {', '.join(names)} of all elements in the data (there are: "
            f"{there}); use --references fitted"
        )
    table = np.zeros((len(names), counts.shape[1]))
    summed = np.array([kind is SUM and references == "fitted" for kind in kinds])
    if references == "fitted":
        table = _fitted(values, counts, summed)
    if references == "atoms":
        table = np.stack([atoms.get(name, table[k]) for k, name in enumerate(names)])
    table = np.where(np.array([kind.references for kind in kinds])[:, None], table, 0.0)
    if spread == NONE:
        return TargetNormalization(table, np.zeros(len(names)), np.ones(len(names)))
    rest = values - counts @ table.T
    scale = np.array([SPREADS[spread](column) for column in rest.T])
    shifted = np.array([kind.mean or kind is SUM for kind in kinds])  # a sum as it was asked for
    shift = np.where(shifted & ~summed, rest.mean(0), 0.0)
    return TargetNormalization(table, shift, np.where(scale > 0, scale, 1.0))


def vector_scale(vectors: np.ndarray, spread: str) -> float:
    """The one scale of a vector's three components, from their lengths alone.

    Args:
        vectors: (N, 3); of unknown directions (length, 0, 0).
        spread: as for `normalization_of`: of isotropic vectors v, mean |v_x| = mean |v| / 2 for
            ``mad``, rms v_x = rms |v| / sqrt(3) for ``std``, 1 for ``none``.
    """
    lengths = np.linalg.norm(vectors, axis=1)
    if spread == NONE:
        return 1.0
    if spread == "std":
        return float(np.sqrt(np.square(lengths).mean() / 3.0)) or 1.0
    return float(lengths.mean() / 2.0) or 1.0


def _fitted(values: np.ndarray, counts: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """(T, S) least squares references; zero where they do not at least halve the spread, unless
    they are ``kept`` (T,)."""
    solution = np.linalg.lstsq(counts, values, rcond=None)[0].T  # (T, S)
    rest = values - counts @ solution.T
    pairs = zip(rest.T, values.T, strict=True)
    useful = [mean_deviation(after) <= 0.5 * mean_deviation(before) for after, before in pairs]
    return np.where((kept | np.array(useful))[:, None], solution, 0.0)


def corrections(
    errors: np.ndarray, counts: np.ndarray, kinds: Sequence[Baseline]
) -> tuple[np.ndarray, np.ndarray]:
    """References and shifts that take away what a trained model is off by.

    For each target the most that structures bear out which it was not fitted to, half of them for
    the other half: references if they halve what is left without, a shift if it takes a tenth.

    Args:
        errors: (N, T) labels less answers. counts: (N, S) composition, see `composition`.
        kinds: (T) what may be taken off each target.

    Returns:
        (T, S) references and (T,) shifts, zero where nothing is borne out.
    """
    references = np.zeros((errors.shape[1], counts.shape[1]))
    shifts = np.zeros(errors.shape[1])
    for k, (column, kind) in enumerate(zip(errors.T, kinds, strict=True)):
        left = {name: _left(column, counts, fit) for name, fit in FITS.items()}
        name = "shift" if kind.mean and left["shift"] < 0.9 * left["nothing"] else "nothing"
        if kind.references and left["references"] < 0.5 * left[name]:
            name = "references"
        references[k], shifts[k] = FITS[name](column, counts)
    return references, shifts


Fit = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, float]]
FITS: dict[str, Fit] = {
    "nothing": lambda errors, counts: (np.zeros(counts.shape[1]), 0.0),
    "shift": lambda errors, counts: (np.zeros(counts.shape[1]), float(errors.mean())),
    "references": lambda errors, counts: (np.linalg.lstsq(counts, errors, rcond=None)[0], 0.0),
}


def _left(errors: np.ndarray, counts: np.ndarray, fit: Fit) -> float:
    """Mean |error| of each half after a fit to the other one; infinite where a half is too few."""
    halves = slice(None, None, 2), slice(1, None, 2)
    if len(errors) < 4 * counts.shape[1]:
        return float(np.abs(errors).mean()) if fit is FITS["nothing"] else np.inf
    total = 0.0
    for own, other in (halves, halves[::-1]):
        references, shift = fit(errors[own], counts[own])
        total += float(np.abs(errors[other] - counts[other] @ references - shift).sum())
    return total / len(errors)
