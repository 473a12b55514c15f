"""Tells a trained model how far it may be off, by what it does to structures it never saw."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neupol_cli.io.hdf5 import Dataset
from neupol_cli.models.calibration import FORCE_PREFIX, fitted
from neupol_cli.models.density.model import DensityModel, EncodedAtoms
from neupol_cli.models.property import PropertyModel
from neupol_cli.models.workers import in_order
from neupol_cli.training.arrays import Arrays, sent
from neupol_cli.training.epoch_sampler import batches

ENOUGH = 4_000  # structures of each split: 0.9 of so many is off by 0.005, one standard error
ATOMS = 20_000  # of each split, for forces: those of a structure are alike, hence more of them
FEWEST = 30  # unseen ones; nine in ten of fewer mean little
SEED = 1  # of which structures, and of their order


@dataclass(frozen=True)
class Labelled:
    """Structures with what is known of them.

    Attributes:
        arrays: N structures.
        labels: (N, C) float64, the model's columns.
        by_length: vectors of which only the length is known, in their first column.
        forces: (A, 3) on all atoms, of a model that has learnt them.
    """

    arrays: Arrays
    labels: Tensor
    by_length: Collection[str] = ()
    forces: Tensor | None = None

    def errors(self, model: PropertyModel, predicted: Tensor, chosen: Tensor) -> Tensor:
        """(b, C) predictions of some structures -> (b, T) distances from their labels."""
        columns, known = [], self.labels[sent(chosen, self.labels.device)]
        for name, place in model.columns.items():
            values, labels = predicted[:, place], known[:, place]
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
    """Tensors of a calibration, and of one of the forces, for the model's checkpoint.

    Args:
        model: trained, in eval mode, where the data are.
        data: structures and labels.
        splits: ``train`` and ``valid``, which ones (n,), on the host.
        batch: structures at a time.
        check: called between batches; raises where somebody wants to stop.

    Returns:
        None of them where there are too few unseen structures to know.
    """
    if len(splits["valid"]) < FEWEST:
        return {}
    known, _ = _described(model, data, splits["train"], batch, check)
    unseen, errors = _described(model, data, splits["valid"], batch, check)
    tensors = fitted(known, unseen, errors).to(model.dtype).tensors()
    return (
        tensors if data.forces is None else tensors | _of_forces(model, data, splits, batch, check)
    )


def _of_forces(
    model: PropertyModel,
    data: Labelled,
    splits: Mapping[str, Tensor],
    batch: int,
    check: Callable[[], None],
) -> dict[str, Tensor]:
    """Tensors of the forces' calibration; arguments as for :func:`calibrate`."""
    known, _, _ = _described_forces(model, data, splits["train"], batch, check)
    unseen, errors, structures = _described_forces(model, data, splits["valid"], batch, check)
    calibration = fitted(known, unseen, errors, structures)
    return calibration.to(model.dtype).tensors(FORCE_PREFIX)


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

    def of_some(some: Tensor) -> tuple[Tensor, Tensor]:
        predicted, described = model.described(data.arrays.graph(some)[0])
        return described, data.errors(model, predicted, some)

    features, errors = [], []
    for described, wrong in in_order(of_some, batches(_chosen_rows(split), batch)):
        check()
        features.append(described)
        errors.append(wrong)
    return torch.cat(features), torch.cat(errors)


def _described_forces(
    model: PropertyModel, data: Labelled, split: Tensor, batch: int, check: Callable[[], None]
) -> tuple[Tensor, Tensor, Tensor]:
    """The same of the atoms of some structures, whole ones and about `ATOMS` of them.

    Returns:
        (a, F) features, (a, 1) lengths of forces' errors, (a,) which structure's each atom is.
    """
    assert data.forces is not None  # as the caller has seen
    energy = model.columns[model.energy].start
    features, errors, structures = [], [], []
    atoms = count = 0
    for some in batches(_chosen_rows(split), batch):
        check()
        graph, rows = data.arrays.graph(some)
        forces, described = model.described_forces(graph, energy)
        features.append(described)
        errors.append((forces - data.forces[rows]).norm(dim=1, keepdim=True))
        structures.append(graph.batch + count)
        atoms, count = atoms + len(rows), count + len(some)
        if atoms >= ATOMS:
            break
    return torch.cat(features), torch.cat(errors), torch.cat(structures)


def _chosen_rows(split: Tensor) -> Tensor:
    """See :func:`chosen`."""
    return torch.from_numpy(chosen(split.numpy()))
