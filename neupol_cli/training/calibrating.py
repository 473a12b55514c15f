"""Tells a trained model how far it may be off, by what it does to structures it never saw."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neupol_cli.density.around_atoms import by_nearest_atom
from neupol_cli.io.hdf5 import Dataset
from neupol_cli.io.volumetric import Grid
from neupol_cli.models.calibration import ATOM_PREFIX, FORCE_PREFIX, fitted
from neupol_cli.models.density.model import DensityModel, EncodedAtoms
from neupol_cli.models.property import PropertyModel
from neupol_cli.models.workers import in_order
from neupol_cli.training.arrays import Arrays, sent
from neupol_cli.training.epoch_sampler import batches

ENOUGH = 4_000  # structures of each split: 0.9 of so many is off by 0.005, one standard error
ATOMS = 20_000  # of each split, for what is said of atoms: those of a structure are alike
GRIDS = 256  # unseen structures whose whole densities are compared, for errors around atoms
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
    """Tensors of a density model's calibration, and of one of its atoms' surroundings.

    Args:
        model: trained, in eval mode.
        dataset: structures.
        known, unseen: which of them it was trained on, and which not, in random order.
        errors: (v, 1) eps_mae of the latter, percent.
        check: as for :func:`calibrate`.
    """
    structures, atoms, _ = _described_densities(model, dataset, known, check)
    unseen_structures, unseen_atoms, owners = _described_densities(model, dataset, unseen, check)
    of_structures = fitted(structures, unseen_structures, errors).to(model.dtype)
    wrong, count = [], min(GRIDS, int(owners[-1]) + 1)
    for index in unseen[:count]:
        check()
        wrong.append(errors_by_atom(model, dataset, int(index)))
    compared, by_atom = owners < count, torch.cat(wrong)[:, None]
    of_atoms = fitted(atoms, unseen_atoms[compared], by_atom, owners[compared])
    return of_structures.tensors() | of_atoms.to(model.dtype).tensors(ATOM_PREFIX)


def _described_densities(
    model: DensityModel[EncodedAtoms],
    dataset: Dataset,
    indices: np.ndarray,
    check: Callable[[], None],
) -> tuple[Tensor, Tensor, Tensor]:
    """Of n structures (n, F) their features, and of the first ones with about `ATOMS` in all (a, G)
    their atoms', (a,) whose each atom is."""

    def row(index: int) -> tuple[Tensor, Tensor]:
        features = model.atom_features(dataset.atoms(index))
        return model.described(features), model.described_atoms(features)

    structures, atoms, held = [], [], 0
    for of_structure, of_atoms in in_order(row, indices.tolist(), apart=True):
        check()
        structures.append(of_structure)
        if held < ATOMS:
            atoms.append(of_atoms)
            held += len(of_atoms)
    counts = torch.tensor([len(rows) for rows in atoms])
    owners = torch.arange(len(atoms)).repeat_interleave(counts)
    every = torch.cat(atoms)
    return torch.cat(structures), every, owners.to(every.device)


def errors_by_atom(model: DensityModel[EncodedAtoms], dataset: Dataset, index: int) -> Tensor:
    """(A,) electrons: the integral of the error over what is nearest to each atom of a structure.

    Args:
        model: whose error.
        dataset: structures with densities.
        index: which one.
    """
    density = dataset.density
    assert density is not None  # as the caller has seen
    atoms, (n1, n2, n3) = dataset.atoms(index), density.shape[index].tolist()
    grid = Grid(density.origin[index], density.step[index], (n1, n2, n3))
    predicted = model.density_grid(model.atom_features(atoms), grid).double().cpu().numpy()
    wrong = np.abs(totals(predicted) - totals(density.values(index)))
    sums = by_nearest_atom(wrong, grid, atoms)
    return torch.from_numpy(sums).to(model.device)


def totals(values: np.ndarray) -> np.ndarray:
    """(P,) the densities of a grid's points, without their spin."""
    return values if values.ndim == 1 else values[:, 0]


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
    for described, wrong in in_order(of_some, batches(_chosen_rows(split), batch), apart=True):
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
