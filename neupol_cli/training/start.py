"""Training that goes on from trained weights: what is taken over, and what begins anew.

Weights go over by name. Heads go with their targets, whatever their place; those of targets that
the trained model did not have keep their random start, and so does the spin of a density that had
none. New elements, in networks that say where these are, begin as the known element above them in
the periodic table, or else as the mean of all: a random start lies where trained layers have never
been, and some answer 1e23 there. All else has to fit: a setting that changes the shape of a weight
makes another network.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from neupol_cli import checkpoint, registry
from neupol_cli.errors import CheckpointError, InputError, UsageError
from neupol_cli.models.base import Header, Model, Network, Origin
from neupol_cli.models.calibration import without
from neupol_cli.models.property import PropertyModel
from neupol_cli.models.targets import target
from neupol_cli.models.ties import tied_targets
from neupol_cli.training.parts import AROUND
from neupol_cli.training.relatives import relative
from neupol_cli.training.target_normalization import TargetNormalization

# Settings that follow from the data of a training.
OF_DATA = ("targets", "units", "outputs", "positive", "tied")
UNITS = ("reference", "shift", "scale")
HEAD = re.compile(r"^(.*\bheads\.)(\d+)(\..+)$")


@dataclass(frozen=True)
class Start:
    """A trained model to go on from.

    Attributes:
        source: what the user called it, without folders.
        sha256: of its file's content; empty for a published one.
        model: the network's name.
        config: its settings, plain values.
        tensors: weights and units by name, without what tells how far off it may be.
    """

    source: str
    sha256: str
    model: str
    config: Mapping[str, object]
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, source: str) -> Start:
        """What a user passes to ``--from``.

        Raises:
            InputError, CheckpointError: see ``registry.load``.
        """
        model = registry.load(source)
        header = model.header
        config = dataclasses.asdict(model.config)
        name, digest = header["model"], str(cast(dict[str, object], header).get("sha256", ""))
        return cls(Path(source).name, digest, name, config, without(model.state_dict()))

    @classmethod
    def read(cls, path: Path) -> Start:
        """A run folder's own copy.

        Raises:
            StorageError, CheckpointError.
        """
        header, tensors = checkpoint.load_file(path)
        if "start" not in header:
            raise CheckpointError(f"{path}: does not say what it is a copy of")
        origin = header["start"]
        return cls(origin["source"], origin["sha256"], header["model"], header["config"], tensors)

    def write(self, path: Path) -> None:
        """Copies it, so that a run needs nothing outside its folder to go on.

        Raises:
            StorageError.
        """
        header = Header(model=self.model, config=dict(self.config), start=self.origin)
        checkpoint.write(path, "weights", header, self.tensors)

    @property
    def origin(self) -> Origin:
        """What a checkpoint that came of it says about it."""
        return {"source": self.source, "sha256": self.sha256}

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers that it has a place for."""
        return tuple(cast(Sequence[int], self.config.get("species", ())))

    @property
    def targets(self) -> tuple[str, ...]:
        """What it answers, where that is properties."""
        return tuple(cast(Sequence[str], self.config.get("targets", ())))

    @property
    def units(self) -> dict[str, str]:
        """Their units."""
        names = cast(Sequence[str], self.config.get("units", ()))
        return dict(zip(self.targets, names, strict=True))

    @cached_property
    def columns(self) -> dict[str, slice]:
        """Which of its outputs are each target's."""
        model = registry.build(self.model, self.config)
        return model.columns if isinstance(model, PropertyModel) else {}

    def settings(self, elements: Sequence[int]) -> dict[str, object]:
        """The settings of a network for data of these elements.

        Raises:
            InputError: it has no place for one, and the network cannot be given any.
        """
        settings = {key: value for key, value in self.config.items() if key not in OF_DATA}
        missing = sorted(set(elements) - set(self.species))
        if missing and "species" in settings:
            if not registry.entry(self.model).load().by_element:
                raise InputError(
                    f"--from {self.source}: has no place for elements {missing}, and {self.model} "
                    "cannot be given any; train it from the beginning"
                )
            settings["species"] = sorted({*self.species, *elements})
        return settings


@torch.no_grad()
def take_over(model: Model, start: Start) -> None:
    """Copies a start's weights into a model; see the module.

    Raises:
        UsageError: a weight that does not fit, or that only one of the two has.
    """
    _check_species(model, start)
    state = {name: value for name, value in model.state_dict().items() if name not in UNITS}
    places = {name: _place(model, start, name) for name in state}
    read = {place for place in places.values() if place}
    for name in start.tensors:
        if name not in read and name not in UNITS and not HEAD.match(name):
            raise UsageError(_unfit(start, f"its {name} has no place"))
    for name, place in places.items():
        if place is not None:
            if place not in start.tensors:
                raise UsageError(_unfit(start, f"it has no {name}"))
            _copy(model, start, name, state[name], start.tensors[place].to(state[name]))


def _check_species(model: Model, start: Start) -> None:
    """UsageError for places that the start has and the model has not, or that nobody can tell."""
    lost = sorted(set(start.species) - set(model.species))
    if lost:
        raise UsageError(_unfit(start, f"its elements {lost} have no place"))
    if model.species != start.species and not _network(model).by_element:
        raise UsageError(_unfit(start, f"its elements are {sorted(start.species)}"))


def _unfit(start: Start, problem: str) -> str:
    return f"--from {start.source}: with these settings {problem}; leave out what changes it"


def _place(model: Model, start: Start, name: str) -> str | None:
    """What a tensor is called in the start; None for one that begins anew."""
    head = HEAD.match(name)
    if head is None or not isinstance(model, PropertyModel):
        return name
    target = model.config.targets[int(head[2])]
    if target not in start.targets:
        return None
    return f"{head[1]}{start.targets.index(target)}{head[3]}"


def _copy(model: Model, start: Start, name: str, own: Tensor, source: Tensor) -> None:
    """One tensor; of one with a place for each target or element, those that both sides have."""
    network, short = _network(model), name.removeprefix(AROUND)
    axis = network.by_element.get(short)
    shape = list(own.shape)
    if any(fnmatchcase(short, pattern) for pattern in network.by_target):
        source = _known_targets(model, start, own, source)
    elif short in network.by_column and source.numel() * 2 == own.numel():
        source = torch.stack((source, own.unflatten(-1, (-1, 2))[..., 1]), dim=-1).flatten(-2)
    elif axis is not None:
        shape[axis] = shape[axis] // len(model.species) * len(start.species)
    if list(source.shape) != shape:
        raise UsageError(_unfit(start, f"its {name} is {tuple(source.shape)}, not {tuple(shape)}"))
    own.copy_(source if axis is None else _known_elements(model, start, axis, own, source))


def _known_targets(model: Model, start: Start, own: Tensor, source: Tensor) -> Tensor:
    """A tensor with rows for the model's targets, and of the start's rows those of the same."""
    assert isinstance(model, PropertyModel)
    if source.shape[1:] != own.shape[1:]:
        return source  # which does not fit
    rows = own.clone()
    for name, place in model.columns.items():
        if name in start.columns:
            rows[place] = source[start.columns[name]]
    return rows


def _network(model: Model) -> Network:
    """What is of the registry: a model, or the backbone in it."""
    if isinstance(model, PropertyModel):
        return model.backbone
    assert isinstance(model, Network)
    return model


def _known_elements(model: Model, start: Start, axis: int, own: Tensor, source: Tensor) -> Tensor:
    """A tensor with places for the model's elements, in them the start's numbers of the same, or
    of what they are most like."""
    kinds = int(getattr(model.config, "points_per_atom", 1))
    known = source.unflatten(axis, (kinds, len(start.species), -1))
    likes = [relative(number, start.species) for number in model.species]
    rows = [
        known.mean(axis + 1) if like is None else known.select(axis + 1, start.species.index(like))
        for like in likes
    ]
    return torch.stack(rows, axis + 1).reshape(own.shape)


def ties(targets: Sequence[str], start: Start | None) -> list[str]:
    """Which targets are made of others: those that can be, and of the start's those that were.

    Raises:
        UsageError: one that was, of others that are not learnt now.
    """
    tied = tied_targets(targets)
    if start is None:
        return tied
    before = cast(Sequence[str], start.config.get("tied", ()))
    for name in before:
        if name in targets and name not in tied:
            parts = " and ".join(part for part, _ in target(name).parts)
            raise UsageError(_unfit(start, f"{name} was learnt with {parts}, which are left out"))
    return [name for name in tied if name in before or name not in start.targets]


def carried(
    normalization: TargetNormalization, model: PropertyModel, start: Start
) -> tuple[TargetNormalization, np.ndarray]:
    """Units in which what the start answers already is as it was there.

    Args:
        normalization: of the data, for all targets.
        model: whose targets they are.
        start: the trained model.

    Returns:
        The units, and (C,) which of the model's outputs the start knows.

    Raises:
        UsageError: a target in another unit.
    """
    references, shift, scale = (
        a.copy() for a in (normalization.references, normalization.shift, normalization.scale)
    )
    known = np.zeros(len(scale), bool)
    rows = [model.species.index(number) for number in start.species]
    theirs = {name: start.tensors[name].double().cpu().numpy() for name in UNITS}
    columns, units = start.columns, start.units
    for name, own in model.columns.items():
        if name in columns:
            if units[name] != model.targets[name]:
                raise UsageError(_unfit(start, f"{name} is in {units[name]}"))
            known[own] = True
            shift[own], scale[own] = theirs["shift"][columns[name]], theirs["scale"][columns[name]]
            references[own, rows] = theirs["reference"][columns[name]]
    return TargetNormalization(references, shift, scale), known
