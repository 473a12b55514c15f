"""What ``neupol md`` does: begins a run of dynamics in a folder, or goes on with one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from neupol_cli.io.files import locked_folder
from neupol_cli.models.workers import workers
from neupol_cli.progress import Tick, counted
from neupol_cli.simulation import dynamics, each, run_folder
from neupol_cli.simulation.dynamics import Files, Moved, Plan
from neupol_cli.simulation.potential import Potential
from neupol_cli.simulation.run_folder import Settings
from neupol_cli.simulation.state import State


@dataclass(frozen=True)
class Going:
    """How a run goes, whatever it was begun with.

    Attributes:
        folder: of the run.
        handling: of doubts and bad structures.
        accept: go on where the model's domain is left, as a run does that was begun so.
    """

    folder: Path
    handling: each.Handling
    accept: bool


def begin(
    going: Going, settings: Settings, potential: Potential, files: Sequence[str], seed: int
) -> Iterator[Moved]:
    """Begins a run: states of all structures first, so that none is needed from elsewhere.

    Args:
        going: how.
        settings: of the run; its number of structures is not known yet.
        potential: the model.
        files: with structures.
        seed: with a structure's number, that of its random numbers.

    Raises:
        UsageError: there is a run in the folder.
        InputError: a bad structure, or none; see ``each.answers``.
    """
    with run_folder.begun(going.folder):
        start = partial(dynamics.begin, potential, settings.ensemble, seed)
        named = enumerate(each.accepted(files, potential, going.handling))
        states = list(each.answers(start, named, going.handling))
        places = run_folder.files(going.folder, len(states))
        items = list(zip(states, places, strict=True))
        for state, place in items:
            state.save(place.state)
        settings = replace(settings, structures=len(states), accept=going.accept)
        settings.write(going.folder)
        yield from _moved(going, settings, potential, items)


def resume(
    going: Going, duration: str | None, steps: int | None, device: torch.device
) -> Iterator[Moved]:
    """Goes on with a run.

    Args:
        going: how.
        duration: in all, such as ``10ps``, instead of what the run was begun with.
        steps: the same in steps.
        device: where the model computes.

    Raises:
        InputError: no run is in the folder.
        CheckpointError: what is in it is damaged, or its model was exchanged.
    """
    settings = Settings.read(going.folder)
    ensemble = settings.ensemble
    if duration is not None:
        steps = run_folder.steps_of(duration, ensemble.timestep)
    loaded = Potential.load(settings.model, device, settings.dtype, ensemble.kind == "npt")
    potential = replace(loaded, name=settings.name)
    with locked_folder(going.folder):
        before, accept = settings, settings.accept or going.accept
        settings = replace(settings, steps=before.steps if steps is None else steps, accept=accept)
        if settings != before:
            settings.write(going.folder)
        places = run_folder.files(going.folder, settings.structures)
        items = [(State.load(place.state), place) for place in places]
        yield from _moved(going, settings, potential, items)


def _moved(
    going: Going,
    settings: Settings,
    potential: Potential,
    items: Sequence[tuple[State, Files]],
) -> Iterator[Moved]:
    """All structures to the end, some at a time; one alone shows how far it is."""
    plan = Plan(settings.ensemble, settings.steps, settings.every, settings.accept)

    def moved(tick: Tick, item: tuple[State, Files]) -> Moved:
        return dynamics.move(potential, plan, *item, tick)

    if len(items) > 1 and workers() > 1:
        yield from each.answers(partial(moved, lambda step: None), items, going.handling)
        return
    with counted("steps", settings.steps) as tick:
        yield from each.answers(partial(moved, tick), items, going.handling)
