"""What is learnt of a dataset's labels: which targets, in which columns, from which label."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from neupol_cli import registry
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import hdf5
from neupol_cli.io.hdf5 import Dataset
from neupol_cli.targets import ENERGIES, FORCES, TARGETS, target
from neupol_cli.training.request import Request


def chosen_targets(dataset: Dataset, request: Request) -> tuple[tuple[str, ...], bool]:
    """The labels of structures to learn, and whether the forces too.

    Raises:
        InputError: a label that is not there, listing those that are.
        UsageError: forces without exactly one energy in the same unit.
    """
    there = dataset.targets
    single = [k for k, t in there.items() if t.per == "structure" and t.values.ndim == 1]
    usual = [*single, *([FORCES] if FORCES in there else [])]
    vectors = [name for name in TARGETS if name not in usual and is_vector(dataset, name)]
    learnable = [*usual, *vectors]
    wanted = list(dict.fromkeys(request.targets)) or usual
    for name in wanted:
        if name not in learnable:
            raise InputError(_unlearnable(dataset, name, learnable))
    forces = FORCES in wanted
    names = tuple(name for name in wanted if name != FORCES)
    if not names:
        raise UsageError("forces are learnt as derivatives of an energy: add --target energy")
    if forces and len(names) != 1:
        raise UsageError(f"forces go with one energy, not with {', '.join(names)}: choose --target")
    if forces and there[FORCES].unit != f"{there[names[0]].unit}/Angstrom":
        units = f"{there[names[0]].unit} and {there[FORCES].unit}"
        raise InputError(f"{names[0]} and forces are in {units}, which do not belong together")
    if forces and names[0] not in ENERGIES:
        raise UsageError(
            f"forces are derivatives of {' or '.join(ENERGIES)}, not of {names[0]}: name the label "
            "with neupol data xyz --energy-key"
        )
    return names, forces


def _unlearnable(dataset: Dataset, name: str, learnable: list[str]) -> str:
    """Why a label is not learnt: it is not there, or no network answers its sort."""
    known = ", ".join(learnable) or "none"
    if name not in dataset.targets:
        return f"no label {name!r} to learn in the data; there are: {known}"
    label = dataset.targets[name]
    numbers = " x ".join(map(str, label.values.shape[1:]))
    sort = f"{numbers} numbers" if numbers else "a number"
    return (
        f"label {name!r} is {sort} per {label.per}; networks learn numbers and dipoles per "
        f"structure, and forces; learnable here: {known}"
    )


def is_vector(dataset: Dataset, name: str) -> bool:
    """Whether a target is a vector of three that these data have, or of which they have the length.

    A label of that name with one number a structure is learnt as the number that it is.
    """
    label = dataset.targets.get(name)
    if target(name).shape != (3,) or target(name).per != "structure":
        return False
    if label is None:
        return target(name).length in dataset.targets
    return label.per == "structure" and label.values.shape[1:] == (3,)


def learnt_by_length(dataset: Dataset, name: str) -> bool:
    """Whether the data have only the length of a vector."""
    return name not in dataset.targets and is_vector(dataset, name)


def label_of(dataset: Dataset, name: str) -> hdf5.Target:
    """The label that a target is learnt from: its own, or its length's."""
    own = dataset.targets.get(name)
    return dataset.targets[target(name).length] if own is None else own


def label_columns(dataset: Dataset, name: str) -> np.ndarray:
    """(N, 1) of a number, (N, 3) of a vector; where only its length L is known, (L, 0, 0)."""
    values = label_of(dataset, name).values
    columns = values.reshape(len(values), -1)
    return np.pad(columns, ((0, 0), (0, 2))) if learnt_by_length(dataset, name) else columns


def outputs_of(network: str, dataset: Dataset, names: tuple[str, ...]) -> dict[str, list[str]]:
    """What a network's Config says about how targets are read out; nothing where all are numbers.

    Raises:
        UsageError: the network has no way to read out a vector.
    """
    vectors = [name for name in names if is_vector(dataset, name)]
    if not vectors:
        return {}
    if "outputs" not in {field.name for field in fields(registry.entry(network).load().Config)}:
        raise UsageError(
            f"{network} answers with numbers; {vectors[0]} is a vector: equivariant-transformer "
            "has one"
        )
    numbers = {name: "scalar" if target(name).shape else target(name).readout for name in names}
    return {"outputs": [target(n).readout if n in vectors else numbers[n] for n in names]}
