"""What a learned encoding looks like in numbers (Gao et al. 2022, section 4.3, Table 3, Fig. 4).

A checkpoint holds one table h_i (bins, s) a layer i, over bin centres x. Averages run over the l
layers and s dimensions; rho is a correlation over the bins:

    non-linearity     1 - mean rho_Pearson(h_ij, x)^2
    non-monotonicity  1 - mean rho_Spearman(h_ij, x)^2
    diversity         1 - mean over j < k of rho_Pearson(h_ij, h_ik)^2
    smoothness        1 - sum_k |h_i(x_{k+1}) - h_i(x_k)| / sum_k |h_i(x_k)|
    similarity        mean over i, j, k of rho_Pearson(h^a_ij, h^b_ik)^2
    profile           mean of |g_ij(x)| / std_x(g_ij),  g = dh/dx

A dimension that is constant correlates with nothing: it is left out of the means.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from neupol_cli.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from neupol_cli.models.nn.hermite import HermiteTable, Interpolation

UNITS = {"distance": "Angstrom", "angle": "rad"}
SHOWN = 10  # dimensions of Fig. 1


@dataclass(frozen=True)
class Tables:
    """The learned tables of one checkpoint that encode the same kind of quantity.

    Attributes:
        quantity: ``distance`` or ``angle``.
        names: of the l modules.
        x: (l, bins) bin centres, Angstrom or rad.
        heights: (l, bins, s) values; slopes: (l, bins, s) derivatives by x, learned or,
            where the interpolation reads none, those of the heights.
        interpolation: between the bins.
    """

    quantity: str
    names: tuple[str, ...]
    x: np.ndarray
    heights: np.ndarray
    slopes: np.ndarray
    interpolation: Interpolation = "hermite"

    @classmethod
    def of(cls, quantity: str, modules: Sequence[tuple[str, HermiteTable]]) -> Tables:
        """From a network's table modules of one shape."""
        tables = [module for _, module in modules]
        curves = [table.heights.detach().double().cpu().numpy() for table in tables]
        slopes = [np.gradient(curve, axis=0) for curve in curves]
        for k, table in enumerate(tables):
            if table.slopes is not None:
                slopes[k] = table.slopes.detach().double().cpu().numpy()
        bins = tables[0].heights.shape[0]
        x = np.stack([np.linspace(table.low, table.high, bins) for table in tables])
        steps = np.array([table.step for table in tables])[:, None, None]
        return cls(
            quantity,
            tuple(name for name, _ in modules),
            x,
            np.stack(curves),
            np.stack(slopes) / steps,
            tables[0].interpolation,
        )

    def at(self, x: np.ndarray) -> np.ndarray:
        """(l, len(x), s) the curves at other places, by the encoding's own interpolation."""
        import torch

        from neupol_cli.models.nn.hermite import TableLookup

        places, curves = torch.from_numpy(x), []
        for centres, heights, slopes in zip(self.x, self.heights, self.slopes, strict=True):
            step = centres[1] - centres[0]
            table = np.stack((heights, slopes * step), 1).reshape(-1, heights.shape[1])
            ends = float(centres[-1]), float(centres[0])
            lookup = TableLookup.of(places, len(centres), *ends, self.interpolation)
            curves.append(lookup.read(torch.from_numpy(table)).numpy())
        return np.stack(curves)


@dataclass(frozen=True)
class Study:
    """One checkpoint: its label, where it is, what it learned, and its tables by quantity."""

    label: str
    path: str
    model: str
    targets: tuple[str, ...]
    tables: tuple[Tables, ...]


class Characteristics(TypedDict):
    """Table 3; None where all is constant."""

    nonlinearity: float | None
    nonmonotonicity: float | None
    diversity: float | None
    smoothness: float | None


class Polynomial(Characteristics):
    """Those of the paper's toy encoding."""

    bins: int


class TableDescription(Characteristics):
    """What is told of one kind of tables; curves and components are of the shown layer."""

    quantity: str
    unit: str
    layers: list[str]
    bins: int
    size: int
    low: float
    high: float
    profile: list[float]
    shown_layer: int
    curves: list[list[float]]
    components: list[list[float]]
    explained: list[float]


class CheckpointDescription(TypedDict):
    """What is told of one checkpoint."""

    label: str
    path: str
    model: str
    targets: list[str]
    tables: list[TableDescription]


class Similarity(TypedDict):
    """Who resembles whom: every checkpoint with every one."""

    labels: list[str]
    matrix: list[list[float | None]]


class Description(TypedDict):
    """Everything that is told of some checkpoints."""

    checkpoints: list[CheckpointDescription]
    polynomial: Polynomial
    similarity: Similarity


def read(paths: Sequence[str]) -> list[Study]:
    """The studies of some checkpoints.

    Raises:
        InputError: a checkpoint without learned tables; and what `registry.load` raises.
    """
    from neupol_cli import registry

    studies = []
    for path, label in zip(paths, labels(paths), strict=True):
        model = registry.load(path)
        tables = tuple(found_in(model))
        if not tables:
            raise InputError(
                f"{path}: has no learned encoding; train with neupol fit --encoding learned"
            )
        targets = tuple(model.header.get("targets", {}))
        studies.append(Study(label, path, model.header["model"], targets, tables))
    return studies


def labels(paths: Sequence[str]) -> list[str]:
    """Short names of checkpoints: the run folder's or the file's, longer where they repeat."""
    from pathlib import Path

    def short(path: str, parts: int) -> str:
        p = Path(path)
        p = p.parent if p.stem in ("best", "last") and p.parent.name else p.with_suffix("")
        return "/".join(p.parts[-parts:])

    longest = max((len(Path(path).parts) for path in paths), default=1)
    for parts in range(1, longest + 1):
        names = [short(path, parts) for path in paths]
        if len(set(names)) == len(names):
            return names
    return list(paths)


def found_in(model: nn.Module) -> Iterator[Tables]:
    """The learned tables of a network, together by quantity and shape."""
    from neupol_cli.models.nn.hermite import HermiteTable

    groups: dict[tuple[str, torch.Size], list[tuple[str, HermiteTable]]] = {}
    for name, module in model.named_modules():
        if isinstance(module, HermiteTable):
            key = (module.quantity, module.heights.shape)
            groups.setdefault(key, []).append((name, module))
    for key, modules in groups.items():
        yield Tables.of(key[0], modules)


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared Pearson correlations over the bins.

    Args:
        a, b: (..., bins, s) and (..., bins, r).

    Returns:
        (..., s, r); NaN where a column is constant.
    """
    a, b = (_standard(curve) for curve in (a, b))
    return np.square(np.swapaxes(a, -1, -2) @ b)


def _standard(columns: np.ndarray) -> np.ndarray:
    """Columns less their mean, of length one; NaN if constant to rounding."""
    centred = columns - columns.mean(-2, keepdims=True)
    length = np.linalg.norm(centred, axis=-2, keepdims=True)
    flat = length <= 1e-7 * np.linalg.norm(columns, axis=-2, keepdims=True)
    return centred / np.where(flat, np.nan, length)


def ranks(columns: np.ndarray) -> np.ndarray:
    """(bins, s) -> ranks from 1 in each column; equal values share the mean of their ranks."""
    result = np.empty(columns.shape)
    for j, column in enumerate(columns.T):
        _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
        result[:, j] = (counts.cumsum() - (counts - 1) / 2)[inverse]
    return result


def _mean(values: np.ndarray) -> float | None:
    """The mean of what is not NaN, or None if nothing is left."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else None


def _rest(values: np.ndarray) -> float | None:
    """One less that mean."""
    mean = _mean(values)
    return None if mean is None else 1 - mean


def characteristics(x: np.ndarray, heights: np.ndarray) -> Characteristics:
    """Table 3 of (l, bins) centres and (l, bins, s) tables; None where all is constant."""
    pairs = np.triu_indices(heights.shape[2], 1)
    line = x[..., None]
    monotonic = np.stack(
        [correlations(ranks(h), ranks(c)) for h, c in zip(heights, line, strict=True)]
    )
    steps = np.linalg.norm(np.diff(heights, axis=1), axis=2).sum(1)
    sizes = np.linalg.norm(heights[:, :-1], axis=2).sum(1)
    return {
        "nonlinearity": _rest(correlations(heights, line)),
        "nonmonotonicity": _rest(monotonic),
        "diversity": _rest(correlations(heights, heights)[:, pairs[0], pairs[1]]),
        "smoothness": _rest(steps / np.where(sizes > 0, sizes, np.nan)),
    }


def polynomial(bins: int) -> Characteristics:
    """The paper's toy encoding {x, x^2, x^3} over [0, 1]; with 37 bins it is .08 .00 .09 .92."""
    x = np.linspace(0, 1, bins)
    return characteristics(x[None], np.stack([x, x**2, x**3], 1)[None])


def similarity(a: Tables, b: Tables) -> float | None:
    """Fig. 4: mean rho^2 layer by layer over the range that both cover; None if layers differ."""
    if len(a.x) != len(b.x):
        return None
    low, high = max(a.x.min(), b.x.min()), min(a.x.max(), b.x.max())
    if low >= high:
        return None
    x = np.linspace(low, high, max(a.x.shape[1], b.x.shape[1]))
    return _mean(correlations(a.at(x), b.at(x)))


def profile(tables: Tables) -> np.ndarray:
    """(bins,) Fig. 3: |g| / std(g), averaged over layers and dimensions; zero if all is flat."""
    spread = tables.slopes.std(1, keepdims=True)  # (l, 1, s)
    steep = spread > 1e-7 * np.abs(tables.heights).max(1, keepdims=True)
    relative = np.abs(tables.slopes) / np.where(steep, spread, np.inf)
    count = max(int(steep.sum()), 1)
    return relative.sum((0, 2)) / count


def principal(heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fig. 2: (bins, s) -> (bins, 2) first two principal components, and (2,) their variance share.

    Each is turned so that its largest entry is positive.
    """
    centred = heights - heights.mean(0)
    u, size, _ = np.linalg.svd(centred, full_matrices=False)
    size = np.append(size, 0.0)[:2]
    points = np.column_stack([u, np.zeros(len(u))])[:, :2] * size
    largest = points[np.abs(points).argmax(0), [0, 1]]
    share = np.square(size) / max(float(np.square(centred).sum()), 1e-300)
    return points * np.where(largest < 0, -1, 1), share


def described(studies: Sequence[Study], layer: int) -> Description:
    """Everything as plain values, for JSON.

    Args:
        studies: the checkpoints.
        layer: whose curves and components are listed, from 1; from the end if there are fewer.
    """
    bins = studies[0].tables[0].x.shape[1]
    return {
        "checkpoints": [
            {
                "label": study.label,
                "path": study.path,
                "model": study.model,
                "targets": list(study.targets),
                "tables": [_table(tables, layer) for tables in study.tables],
            }
            for study in studies
        ],
        "polynomial": {"bins": bins, **polynomial(bins)},
        "similarity": {
            "labels": [study.label for study in studies],
            "matrix": matrix(studies),
        },
    }


def _table(tables: Tables, layer: int) -> TableDescription:
    k = min(layer, len(tables.x)) - 1
    points, share = principal(tables.heights[k])
    return {
        "quantity": tables.quantity,
        "unit": UNITS[tables.quantity],
        "layers": list(tables.names),
        "bins": tables.x.shape[1],
        "size": tables.heights.shape[2],
        "low": float(tables.x[0, 0]),
        "high": float(tables.x[0, -1]),
        **characteristics(tables.x, tables.heights),
        "profile": profile(tables).tolist(),
        "shown_layer": k + 1,
        "curves": tables.heights[k, :, :SHOWN].T.tolist(),
        "components": points.T.tolist(),
        "explained": share.tolist(),
    }


def matrix(studies: Sequence[Study]) -> list[list[float | None]]:
    """Similarities of the checkpoints' first tables, every one with every one."""
    firsts = [study.tables[0] for study in studies]
    return [[similarity(a, b) for b in firsts] for a in firsts]
