"""What ``neupol density-descriptor`` does: one structure, one field, one file or six."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli.density import descriptor
from neupol_cli.density.on_grid import GridChoice, check_size
from neupol_cli.errors import DivergedError, UsageError
from neupol_cli.io import said, structures, volumetric
from neupol_cli.io.volumetric import Volume
from neupol_cli.progress import counted

if TYPE_CHECKING:
    from ase import Atoms

    from neupol_cli.density.loading import ModelChoice


@dataclass(frozen=True)
class DescriptorReport:
    """The numbers of one field, named as in JSON."""

    structure: str
    descriptor: str
    unit: str
    grid: list[int]
    lowest: float
    highest: float
    seconds: float
    output: list[str]
    info: said.Info

    def as_json(self) -> dict[str, object]:
        """All of them, with what the structure's file says of it."""
        numbers = {name: value for name, value in vars(self).items() if name != "info"}
        return numbers | said.item(self.info)

    def line(self) -> str:
        """For people."""
        unit = self.unit.removeprefix("1")  # a plain number has none
        span = f"{self.lowest:.4g} to {self.highest:.4g} {unit}".rstrip()
        files = " ".join(self.output)
        return f"{self.structure}: {self.descriptor} {span}, {self.seconds:.2f} s: {files}"


def describe(
    name: str,
    label: str,
    atoms: Atoms,
    choice: GridChoice,
    memory: int,
    output: str,
    asked: ModelChoice,
) -> DescriptorReport:
    """Compute a descriptor on a grid and write it.

    Args:
        name: one of `descriptor.DESCRIPTORS`.
        label: the structure's name.
        atoms: the structure.
        choice: how its grid is made.
        memory: bytes for grid and derivatives.
        output: the file; of a Hessian with ``{}`` for xx, yy ... yz.
        asked: what the command line says of the model.

    Raises:
        UsageError: no such descriptor, or a file that cannot hold it.
        InputError: an element that the model does not know, a grid too big for the memory.
        StorageError: the disk is full.
        DivergedError: it is not finite.
    """
    start = time.perf_counter()
    outputs = outputs_of(name, output)
    grid = choice.grid(atoms)
    block_memory = check_size(grid, memory, 4 * len(outputs))
    model = asked.model_for(atoms).requires_grad_(False)
    model.check([atoms], [label])
    with counted(name, grid.size) as tick:
        tables = descriptor.on_grid(name, model, atoms, grid, block_memory, tick)
    if not all(np.isfinite(table).all() for table in tables):
        raise DivergedError(f"{label}: the {name} is not finite: the model's weights are not sound")
    unit = descriptor.DESCRIPTORS[name][0]
    for path, table in zip(outputs, tables, strict=True):
        volume = Volume(atoms, grid, table, unit=unit)
        volumetric.write(path, volume, f"{structures.short(label)} {name} by neupol")
    return DescriptorReport(
        structure=label,
        descriptor=name,
        unit=unit,
        grid=list(grid.shape),
        lowest=min(float(table.min()) for table in tables),
        highest=max(float(table.max()) for table in tables),
        seconds=time.perf_counter() - start,
        output=outputs,
        info=said.of(atoms),
    )


def outputs_of(name: str, output: str) -> list[str]:
    """The files of a descriptor: one, or for a Hessian six, ``{}`` standing for xx, yy ... yz.

    Raises:
        UsageError: no such descriptor, or names that cannot hold it.
    """
    descriptor.check_name(name)
    volumetric.written_as(output, "descriptor")
    if name != "hessian":
        return [output]
    if "{}" not in output:
        raise UsageError(
            f"{output}: a Hessian is six files: put {{}} in the name for xx, yy ... yz"
        )
    return [output.replace("{}", component) for component in descriptor.TENSOR]
