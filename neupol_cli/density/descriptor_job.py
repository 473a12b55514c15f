"""What ``neupol density --descriptor`` does: one structure, one field, one file or six."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neupol_cli.density import descriptor
from neupol_cli.density.on_grid import GridChoice, check_size
from neupol_cli.errors import UsageError
from neupol_cli.io import volumetric
from neupol_cli.io.volumetric import Volume
from neupol_cli.progress import counted

if TYPE_CHECKING:
    from ase import Atoms


def describe(
    name: str,
    label: str,
    atoms: Atoms,
    choice: GridChoice,
    memory: int,
    output: str,
    load: Callable[[], Any],
) -> dict[str, Any]:
    """Compute a descriptor on a grid and write it: a report.

    Raises:
        UsageError, InputError, StorageError: what was asked for cannot be read, made or written.
    """
    start = time.perf_counter()
    outputs = names(name, output)
    grid = choice.grid(atoms)
    left = check_size(grid, memory, 4 * len(outputs))
    model = load().requires_grad_(False)
    model.check([atoms], [label])
    with counted(name, grid.size) as tick:
        tables = descriptor.on_grid(name, model, atoms, grid, left, tick)
    unit = descriptor.DESCRIPTORS[name][0]
    for path, table in zip(outputs, tables, strict=True):
        volume = Volume(atoms, grid, table, unit=unit)
        volumetric.write(path, volume, f"{Path(label).name} {name} by neupol")
    return {
        "structure": label,
        "descriptor": name,
        "unit": unit,
        "grid": list(grid.shape),
        "lowest": min(float(table.min()) for table in tables),
        "highest": max(float(table.max()) for table in tables),
        "seconds": time.perf_counter() - start,
        "output": outputs,
    }


def names(name: str, output: str) -> list[str]:
    """The files of a descriptor: one, or for a Hessian six, ``{}`` standing for xx, yy ... yz."""
    descriptor.check_name(name)
    kind = volumetric.format_of(output)
    if kind not in ("cube", "xsf"):
        raise UsageError(f"{output}: a descriptor is written as .cube or .xsf")
    if name != "hessian":
        return [output]
    if "{}" not in output:
        raise UsageError(
            f"{output}: a Hessian is six files: put {{}} in the name for xx, yy ... yz"
        )
    return [output.replace("{}", part) for part in descriptor.TENSOR]
