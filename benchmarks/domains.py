"""Writes into a checkpoint what its training structures were like and how far off it may be, where
it was trained before checkpoints kept that; what it has stays as it is.

    python benchmarks/domains.py qm9.h5 models/weights/qm9.safetensors [--partition paper]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neupol_cli import checkpoint, registry
from neupol_cli.allocator import keep_large_blocks
from neupol_cli.domain.of_dataset import facts_of_dataset
from neupol_cli.io import hdf5
from neupol_cli.models.calibration import without
from neupol_cli.models.density.model import DensityModel, EncodedAtoms
from neupol_cli.models.property import PropertyModel
from neupol_cli.targets import FORCES
from neupol_cli.training import calibrating
from neupol_cli.training.arrays import Arrays
from neupol_cli.training.density_task import Box
from neupol_cli.training.labels import label_columns

BATCH = 256  # structures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--partition", default="paper")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    dataset = hdf5.read(options.dataset)
    splits = dataset.splits[options.partition]
    for path in options.checkpoints:
        header, tensors = checkpoint.load_file(path)
        fingerprint = header.get("data", {}).get("fingerprint")
        if fingerprint != dataset.fingerprint:
            raise SystemExit(f"{path}: was trained on other data ({fingerprint})")
        plain = {k: v for k, v in header.items() if k not in ("sha256", "format", "kind")}
        facts = header.get("domain") or facts_of_dataset(dataset, splits, lambda: None).record()
        told = calibrated(path, dataset, splits) | tensors
        checkpoint.write(path, "weights", {**plain, "domain": facts}, told)
        print(
            f"{path}: {facts['structures']} structures, {len(facts['surroundings'])} surroundings, "
            f"{'' if len(told) > len(without(told)) else 'not '}calibrated"
        )


def calibrated(
    path: Path, dataset: hdf5.Dataset, splits: dict[str, np.ndarray]
) -> dict[str, Tensor]:
    """The tensors of a model's calibration."""
    model = registry.load(str(path))
    if isinstance(model, DensityModel):
        known, unseen = (calibrating.chosen(splits[name]) for name in ("train", "valid"))
        errors = torch.tensor([[eps_mae(model, dataset, int(k))] for k in unseen])
        return calibrating.of_densities(model, dataset, known, unseen, errors, lambda: None)
    assert isinstance(model, PropertyModel)
    labels = np.concatenate([label_columns(dataset, name) for name in model.targets], 1)
    arrays = Arrays.of(dataset, model.device, model.dtype)
    indices = {name: torch.from_numpy(rows) for name, rows in splits.items()}
    data = calibrating.Labelled(arrays, torch.from_numpy(labels), forces=forces_of(model, dataset))
    return calibrating.calibrate(model, data, indices, BATCH, lambda: None)


def forces_of(model: PropertyModel, dataset: hdf5.Dataset) -> Tensor | None:
    """(A, 3) those of all atoms, where the model was trained on them."""
    if FORCES not in model.header.get("targets", {}):
        return None
    return torch.from_numpy(dataset.targets[FORCES].values).to(model.dtype)


def eps_mae(model: DensityModel[EncodedAtoms], dataset: hdf5.Dataset, index: int) -> float:
    """Percent, over the whole grid of a structure."""
    density = dataset.density
    assert density is not None
    grid = Box(density.origin[index], density.step[index], tuple(density.shape[index].tolist()))
    predicted = model.density_grid(dataset.atoms(index), grid).double().numpy()
    reference = density.values(index)
    return 100 * float(np.abs(predicted - reference).sum() / np.abs(reference).sum())


if __name__ == "__main__":
    main()
