"""Tells a trained model how far it may be off, by what it does to structures it never saw."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neupol_cli.io.hdf5 import Dataset
from neupol_cli.models.calibration import fitted
from neupol_cli.models.density.model import DensityModel, EncodedAtoms
from neupol_cli.models.property import PropertyModel
from neupol_cli.models.workers import in_order
from neupol_cli.training.arrays import Arrays
from neupol_cli.training.epoch_sampler import batches

ENOUGH = 4_000  # structures of each split: 0.9 of so many is off by 0.005, one standard error
FEWEST = 30  # unseen ones; nine in ten of fewer mean little
SEED = 1  # of which structures, and of their order


@dataclass(frozen=True)
class Labelled:
    """Structures with what is known of them.

    Attributes:
        arrays: N structures.
        labels: (N, C) float64, the model's columns.
        by_length: vectors of which only the length is known, in their first column.
    """

    arrays: Arrays
    labels: Tensor
    by_length: Collection[str] = ()

    def errors(self, model: PropertyModel, predicted: Tensor, chosen: Tensor) -> Tensor:
        """(b, C) predictions of some structures -> (b, T) distances from their labels."""
        columns = []
        for name, place in model.columns.items():
            values, labels = predicted[:, place], self.labels[chosen, place]
            if name in self.by_length:
                values, labels = values.norm(dim=1, keepdim=True), labels[:, :1]
            columns.append((values - labels).norm(dim=1))
        return torch.stack(columns, 1)


def calibrate(
    model: PropertyModel,
    data: Labelled,
    splits: Mapping[str, Tensor],
    batch: int,
    check: Callable[[], None],
) -> dict[str, Tensor]:
    """Tensors of a calibration, for the model's checkpoint.

    Args:
        model: trained, in eval mode, where the data are.
        data: structures and labels.
        splits: ``train`` and ``valid``, which ones (n,).
        batch: structures at a time.
        check: called between batches; raises where somebody wants to stop.

    Returns:
        None of them where there are too few unseen structures to know.
    """
    if len(splits["valid"]) < FEWEST:
        return {}
    known, _ = _described(model, data, splits["train"], batch, check)
    unseen, errors = _described(model, data, splits["valid"], batch, check)
    calibration = fitted(known, unseen, errors)
    return calibration.to(model.dtype).tensors()


def of_densities(
    model: DensityModel[EncodedAtoms],
    dataset: Dataset,
    known: np.ndarray,
    unseen: np.ndarray,
    errors: Tensor,
    check: Callable[[], None],
) -> dict[str, Tensor]:
    """Tensors of a density model's calibration.

    Args:
        model: trained, in eval mode.
        dataset: structures.
        known, unseen: which of them it was trained on, and which not.
        errors: (v, 1) eps_mae of the latter, percent.
        check: as for :func:`calibrate`.
    """

    def described(indices: np.ndarray) -> Tensor:
        def row(index: int) -> Tensor:
            return model.described(model.atom_features(dataset.atoms(index)))

        rows = []
        for features in in_order(row, indices.tolist()):
            check()
            rows.append(features)
        return torch.cat(rows)

    return fitted(described(known), described(unseen), errors).to(model.dtype).tensors()


def chosen(split: np.ndarray) -> np.ndarray:
    """At most `ENOUGH` of a split, in random order."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(SEED)).numpy()
    return split[order[:ENOUGH]]


@torch.no_grad()
def _described(
    model: PropertyModel, data: Labelled, split: Tensor, batch: int, check: Callable[[], None]
) -> tuple[Tensor, Tensor]:
    """(n, F) features of some of a split's structures, and (n, T) how far off the model is."""
    rows = torch.from_numpy(chosen(split.cpu().numpy())).to(split.device)

    def of_some(some: Tensor) -> tuple[Tensor, Tensor]:
        predicted, described = model.described(data.arrays.graph(some)[0])
        return described, data.errors(model, predicted, some)

    features, errors = [], []
    for described, wrong in in_order(of_some, batches(rows, batch)):
        check()
        features.append(described)
        errors.append(wrong)
    return torch.cat(features), torch.cat(errors)
