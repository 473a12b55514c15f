"""What is learnt of a dataset's labels: which targets, in which columns, from which label."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from neupol_cli import registry
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import hdf5
from neupol_cli.io.charges import STATED
from neupol_cli.io.hdf5 import Dataset
from neupol_cli.models.base import Backbone, PropertyConfig
from neupol_cli.models.targets import READOUTS, readout_of_number, readouts_of
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
    # Learnt by nobody who does not say so: a structure states them, or its density counts them.
    states = [name for name in single if name in (*STATED, "electrons")]
    usual = [*(k for k in single if k not in states), *([FORCES] if FORCES in there else [])]
    vectors = [name for name in TARGETS if name not in usual and is_vector(dataset, name)]
    learnable = [*usual, *vectors, *states]
    wanted = list(dict.fromkeys(request.targets)) or usual
    for name in wanted:
        if name not in learnable:
            raise InputError(_unlearnable(dataset, name, learnable))
    forces = FORCES in wanted
    names = tuple(name for name in wanted if name != FORCES)
    if not wanted:
        raise InputError("the data have no labels of structures: there is nothing to learn")
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


def outputs_of(
    network: str, dataset: Dataset, names: tuple[str, ...], settings: Mapping[str, object]
) -> dict[str, list[str]]:
    """What a network's Config says about how targets are read out; nothing where all are numbers.

    Raises:
        UsageError: the network has no vectors with these settings; the message says what has.
    """
    vectors = {name: target(name).readout for name in names if is_vector(dataset, name)}
    if not vectors:
        return {}
    known = known_readouts(network, settings)
    for name, readout in vectors.items():
        if readout not in known:
            raise UsageError(_no_vectors(network, settings, name, readout))
    return {"outputs": [vectors.get(name) or readout_of_number(name, known) for name in names]}


def bounded_targets(
    network: str, dataset: Dataset, names: tuple[str, ...], settings: Mapping[str, object]
) -> list[str]:
    """Those that cannot be negative, and are not in these data, but may be as they are read out.

    Args:
        network: its name.
        dataset: with the labels.
        names: the targets.
        settings: of the network, targets and what is said of their readouts included.
    """
    backbone, config = _kind(network, settings)
    readouts = readouts_of(names, config.outputs, backbone.known_readouts(config))
    return [
        name
        for name, readout in zip(names, readouts, strict=True)
        if target(name).positive
        and not READOUTS[readout].positive
        and not (label_of(dataset, name).values < 0).any()
    ]


def known_readouts(network: str, settings: Mapping[str, object]) -> tuple[str, ...]:
    """The ways in which a property network with these settings reads out targets."""
    backbone, config = _kind(network, settings)
    return backbone.known_readouts(config)


def _kind(network: str, settings: Mapping[str, object]) -> tuple[type[Backbone], PropertyConfig]:
    """A property network's class and its settings."""
    backbone, config = registry.entry(network).load(), registry.configure(network, settings)
    assert issubclass(backbone, Backbone) and isinstance(config, PropertyConfig)  # as it is asked
    return backbone, config


def _no_vectors(network: str, settings: Mapping[str, object], name: str, readout: str) -> str:
    others = [
        entry.name
        for entry in registry.ENTRIES.values()
        if entry.task == "property" and readout in known_readouts(entry.name, {})
    ]
    advice = f"train {' or '.join(others)}"
    if readout in known_readouts(network, {**settings, "polarization": "movable"}):
        advice = f"add --polarization movable, or {advice}"
    return f"{network} has no vectors here to read {name} from: {advice}"
