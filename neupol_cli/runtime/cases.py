"""What is timed: growing systems, and the networks and the DFT that answer for them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from neupol_cli.errors import InputError, UsageError
from neupol_cli.runtime.timing import timed
from neupol_cli.training.presets import Preset, presets

if TYPE_CHECKING:
    from ase import Atoms

    from neupol_cli.io.volumetric import Grid
    from neupol_cli.models.base import Model
    from neupol_cli.models.density.model import DensityModel, EncodedAtoms
    from neupol_cli.models.property import PropertyModel

LARGEST = 1_000_000  # points: of a larger grid only blocks are computed
SIDE = 40  # points along each side of a block
MARGIN = 3.6  # Angstrom around a molecule
CELL_BASIS = "gth-dzvp-molopt-sr"  # has metals too, and no orbital that fills all of a crystal
BOND, ANGLE = 1.53, np.radians(112.0)  # C-C, Angstrom, and C-C-C
HYDROGEN, BETWEEN = 1.09, np.radians(107.0)  # C-H and H-C-H


def bavs3() -> Atoms:
    """Hexagonal BaVS3, a 6.72 A, c 5.61 A: 10 atoms."""
    from ase.spacegroup import crystal

    sites = [(1 / 3, 2 / 3, 3 / 4), (0, 0, 0), (0.1656, 0.3312, 0.25)]
    return crystal(["Ba", "V", "S"], sites, spacegroup=194, cellpar=[6.72, 6.72, 5.61, 90, 90, 120])


def alkane(carbons: int) -> Atoms:
    """The straight alkane of that many carbons, all bonds staggered: 3 carbons + 2 atoms."""
    from ase import Atoms

    index = np.arange(-1, carbons + 1)  # both ends' hydrogens continue the chain
    along, across = BOND * np.sin(ANGLE / 2), BOND * np.cos(ANGLE / 2)
    side = np.where(index % 2 == 0, 0.5, -0.5)
    chain = np.stack([along * index, 0.0 * index, across * side], axis=1)  # (carbons + 2, 3)
    inner, out = chain[1:-1], 2 * side[1:-1]
    pairs = [
        inner + HYDROGEN * np.stack([0 * out, y + 0 * out, np.cos(BETWEEN / 2) * out], axis=1)
        for y in (np.sin(BETWEEN / 2), -np.sin(BETWEEN / 2))
    ]
    ends = [near + (end - near) * HYDROGEN / BOND for near, end in (chain[[1, 0]], chain[[-2, -1]])]
    positions = np.concatenate([inner, *pairs, np.stack(ends)])
    return Atoms(numbers=[6] * carbons + [1] * (2 * carbons + 2), positions=positions)


def sampled(grid: Grid, side: int, seed: int, largest: int = LARGEST) -> list[Grid]:
    """The grid itself, or of a large one random blocks with about ``largest`` / 4 points in all.

    Args:
        grid: a dataclass with origin (3,), step (3, 3) and shape.
        side: points along each side of a block; a grid that is thinner has thinner blocks.
    """
    if np.prod(grid.shape) <= largest:
        return [grid]
    rng = np.random.default_rng(seed)
    a, b, c = (min(side, int(n)) for n in grid.shape)
    shape = (a, b, c)
    blocks = []
    for _ in range(max(1, largest // 4 // int(np.prod(shape)))):
        corner = [rng.integers(0, n - m + 1) for n, m in zip(grid.shape, shape, strict=True)]
        origin = grid.origin + np.asarray(corner) @ grid.step
        blocks.append(replace(grid, origin=origin, shape=shape))
    return blocks


@dataclass(frozen=True)
class System:
    """A series of structures of growing size: a name, the sizes, and a structure for each."""

    name: str
    sizes: tuple[int, ...]
    make: Callable[[int], Atoms]

    def structures(self) -> Iterator[tuple[int, Atoms]]:
        """Each size and its structure, one at a time."""
        for size in self.sizes:
            yield size, self.make(size)


def supercells(atoms: Atoms, name: str, times: Sequence[int]) -> System:
    """n x n x n cells; along a direction that is not periodic there is but one."""
    if not atoms.pbc.any() and tuple(times) != (1,):
        raise UsageError(f"{name}: is no crystal and has no supercells; leave out --supercells")
    shown = f"{name} supercells" if atoms.pbc.any() else name

    def make(n: int) -> Atoms:
        return atoms.repeat([n if periodic else 1 for periodic in atoms.pbc])

    return System(shown, tuple(sorted(set(times))), make)


def alkanes(carbons: Sequence[int]) -> System:
    """Straight alkanes; a size is its number of carbons."""
    return System("alkanes", tuple(sorted(set(carbons))), alkane)


class Facts(TypedDict, total=False):
    """What a record says of a grid: its points, those computed, and whether those were fewer."""

    points: int
    computed_points: int
    scaled: bool


@dataclass(frozen=True)
class Work:
    """One size, ready: ``run`` answers seconds, ``facts`` go into its record."""

    run: Callable[[], float]
    facts: Facts = field(default_factory=Facts)


@dataclass
class Clock:
    """When (`time.monotonic`) the work under way has to give up, for work that can."""

    end: float = np.inf


@dataclass(frozen=True)
class Subject:
    """Who is timed: a label, what it answers, and how a structure becomes work.

    ``growth`` is the exponent with which seconds and memory are assumed to grow before two sizes
    have told; ``notes`` say what a reader must know of the numbers.
    """

    label: str
    answers: str
    system: System
    prepare: Callable[[Atoms], Work]
    growth: float
    notes: tuple[str, ...] = ()
    clock: Clock = field(default_factory=Clock)


@dataclass(frozen=True)
class Conditions:
    """What holds for every subject: device, bytes for a network's tiles, step of the grids."""

    device: str
    memory: int
    spacing: float


def density_work(model: DensityModel, atoms: Atoms, conditions: Conditions) -> Work:
    """The whole density, or blocks of it: then the probes' seconds are scaled to the whole."""
    from neupol_cli.io.volumetric import by_spacing

    grid = by_spacing(atoms, conditions.spacing, MARGIN)
    blocks = sampled(grid, SIDE, len(atoms))
    computed = sum(block.size for block in blocks)
    facts: Facts = {
        "points": grid.size,
        "computed_points": computed,
        "scaled": computed < grid.size,
    }

    def run() -> float:
        alone, features = timed(lambda: model.atom_features(atoms), conditions.device)
        seconds, _ = timed(lambda: probes(features), conditions.device)
        return alone + seconds * grid.size / computed

    def probes(features: EncodedAtoms) -> None:
        for block in blocks:
            model.density_grid(features, block, memory=conditions.memory)

    return Work(run, facts)


def property_work(model: PropertyModel, atoms: Atoms, forces: bool, device: str) -> Work:
    """All properties of one structure, with or without forces."""
    return Work(lambda: timed(lambda: model.predict([atoms], forces=forces), device)[0])


def subjects(
    name: str,
    crystal: Callable[[], System] | None,
    molecules: System,
    conditions: Conditions,
) -> list[Subject]:
    """A model as what is timed of it: its density, or its properties without and with forces.

    Args:
        name: as for ``-m``, or a network or preset, for random weights of its size.
        crystal: what the user wants it timed on; None where that is left to the model.
        molecules: for models that do not know the crystal's elements, or have no choice made.
    """
    from neupol_cli import registry
    from neupol_cli.models.density.model import DensityModel
    from neupol_cli.models.property import PropertyModel

    preset = None if name in registry.bundled() or _exists(name) else _untrained(name)
    if preset is not None:
        task = registry.entry(preset.network).task
        wanted = crystal or (lambda: supercells(bavs3(), "BaVS3", (1, 2, 3, 4)))
        system = wanted() if crystal or task == "density" else molecules
        model = _random(preset, task, _elements(system), conditions.device)
        size = "of the default size" if name == preset.network else "of this preset's size"
        notes: tuple[str, ...] = (f"untrained: random weights {size}",)
    else:
        model = _loaded(name, conditions.device)
        system, notes = _suited(name, model, crystal() if crystal else molecules, molecules)
    if isinstance(model, DensityModel):
        return [_density(name, model, system, conditions, notes)]
    assert isinstance(model, PropertyModel)
    return _properties(name, model, system, conditions, notes)


def _exists(name: str) -> bool:
    from pathlib import Path

    return Path(name).exists()


def _elements(system: System) -> set[int]:
    return {int(number) for number in system.make(system.sizes[0]).numbers}


def _loaded(name: str, device: str) -> Model:
    import torch

    from neupol_cli import registry

    model = registry.load(name, device, torch.float32)
    if model.task == "dynamics":
        raise UsageError(f"{name}: neither properties nor densities; see `neupol models`")
    return model


def _untrained(name: str) -> Preset | None:
    """The preset of that name, or a network's default size as one; None for another name."""
    from neupol_cli import registry

    if name in presets():
        return presets()[name]
    return Preset(name, name, "", "") if name in registry.ENTRIES else None


def _random(preset: Preset, task: str, elements: set[int], device: str) -> Model:
    """A network of a preset's size for these elements, the paper's for ChargE3Net."""
    import torch

    from neupol_cli import registry

    if task == "dynamics":
        raise UsageError(
            f"{preset.name}: moves particles; neither properties nor densities to time"
        )
    config: dict[str, object] = {"species": sorted(elements)}
    if task == "property":
        config |= {"targets": ["energy"], "units": ["eV"]}
    if "embedding" in registry.defaults(preset.network) and task == "density":
        config["embedding"] = 119  # the published table of elements
    torch.manual_seed(0)
    return registry.build(preset.network, config | dict(preset.settings)).to(device).eval()


def _suited(
    name: str, model: Model, system: System, molecules: System
) -> tuple[System, tuple[str, ...]]:
    """The system, or alkanes where the model does not know its elements."""
    from ase.data import chemical_symbols

    strange = sorted(_elements(system) - set(model.species))
    if not strange:
        return system, ()
    names = " ".join(chemical_symbols[z] for z in strange)
    unknown = _elements(molecules) - set(model.species)
    if unknown:
        raise InputError(f"{name}: has not seen {names}; name a structure of elements that it has")
    return molecules, (f"alkanes, since the model has not seen {names}",)


def _density(
    name: str, model: DensityModel, system: System, conditions: Conditions, notes: tuple[str, ...]
) -> Subject:
    notes += (f"grid step at most {conditions.spacing:g} Angstrom",)
    return Subject(
        name, "density", system, lambda atoms: density_work(model, atoms, conditions), 1.0, notes
    )


def _properties(
    name: str, model: PropertyModel, system: System, conditions: Conditions, notes: tuple[str, ...]
) -> list[Subject]:
    def prepared(forces: bool) -> Callable[[Atoms], Work]:
        return lambda atoms: property_work(model, atoms, forces, conditions.device)

    subjects = [Subject(name, "properties", system, prepared(False), 2.0, notes)]
    if has_energy(model):
        answers = "properties, forces"
        subjects.append(Subject(name, answers, system, prepared(True), 2.0, notes))
    return subjects


def has_energy(model: PropertyModel) -> bool:
    """Whether a property model can answer forces."""
    try:
        return bool(model.energy)
    except InputError:
        return False


def pyscf(system: System, spacing: float) -> Subject:
    """The valence density by DFT, on the grid that the networks fill. UsageError without PySCF."""
    from neupol_cli.datasets import dft, dft_cells

    version, clock = dft.require().__version__, Clock()
    periodic = bool(system.make(system.sizes[0]).pbc.any())
    basis = CELL_BASIS if periodic else dft.Settings.basis
    settings = dft.Settings(basis=basis, spacing=spacing, margin=MARGIN)
    solve: Callable[..., object] = dft_cells.solve if periodic else dft.solve

    def prepare(atoms: Atoms) -> Work:
        def work() -> object:
            return solve(atoms, settings, system.name, clock.end)

        return Work(lambda: timed(work, "cpu")[0])

    threads = f"threads of the CPU: {importlib.import_module('pyscf.lib').num_threads()}"
    level = f"{settings.level}, Gamma point" if periodic else str(settings)
    notes = (f"PySCF {version}, {level}; SCF and density on the grid; {threads}",)
    return Subject("pyscf", "density by DFT", system, prepare, 3.0, notes, clock)
