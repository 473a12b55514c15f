"""The options that several commands have in common, said once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.models import OptionInfo

from neupol_cli.completion import trained
from neupol_cli.errors import UsageError
from neupol_cli.models.settings import Range

if TYPE_CHECKING:
    from neupol_cli.io.structure_formats.frame import Reading


class OnError(StrEnum):
    """What happens when one structure of many is bad."""

    fail = "fail"
    skip = "skip"


OnErrorOption = Annotated[
    OnError,
    typer.Option(
        "--on-error", help="A bad structure stops everything, or is reported and left out."
    ),
]
ChargeOption = Annotated[
    int | None,
    typer.Option("--charge", help="Total charge of the structures; else what the file says."),
]
StrictOption = Annotated[
    bool,
    typer.Option("--strict", help="A doubtful answer is an error (65), as a bad structure is."),
]
# What files do not say of their structures, or say twice; `reading_of` puts it together.
AltlocOption = Annotated[
    str | None,
    typer.Option("--altloc", metavar="A", help="Of a PDB's alternate locations, this one."),
]
SpeciesOption = Annotated[
    str | None,
    typer.Option(
        "--species",
        metavar="Si,O",
        help="Elements of a POSCAR, or types of LAMMPS data, that does not name them.",
    ),
]
PbcOption = Annotated[
    bool | None,
    typer.Option(
        "--pbc/--no-pbc",
        help="Cubes are periodic, or not (default: told from them); --no-pbc also takes one whole "
        "molecule in a wide box as a molecule.",
        show_default=False,
    ),
]
AcceptOption = Annotated[
    bool, typer.Option("--accept", help="Take values for a density whatever speaks against it.")
]


def reading_of(altloc: str | None, species: str | None, pbc: bool | None) -> Reading:
    """What the user says of files, for `io.structures.read`.

    Raises:
        UsageError: no elements.
    """
    from neupol_cli.io.structure_formats.elements import SYMBOLS
    from neupol_cli.io.structure_formats.frame import Reading

    words = species.replace(",", " ").split() if species is not None else []
    unknown = [word for word in words if word.lower() not in SYMBOLS]
    if unknown or (species is not None and not words):
        raise UsageError(f"--species takes elements such as Si,O, not '{species}'")
    return Reading(altloc, tuple(words), pbc)


MOST_THREADS = 1024  # more are a slip of the finger
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=MOST_THREADS,
        help="Threads on a CPU; the answer is the same for any number.",
        show_default="the cores that this process may use",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 …")]

# What the commands take that move atoms.
TEMPERATURES, PRESSURES = Range(0.0, 1e6), Range(-1e9, 1e9)  # K, bar; a pull is below zero
TIMESTEPS, COUPLINGS = Range(1e-6, 1e3), Range(1e-3, 1e9)  # fs
FilesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE|SMILES...|-",
        help="Structures in any format of ASE, SMILES, lists of these (.smi, .csv), or datasets; - "
        "is stdin (xyz or SMILES).",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--model",
        autocompletion=trained,
        help="Bundled name, run folder or checkpoint, of a model with an energy.",
        show_default="the bundled one that has learnt forces",
    ),
]
DtypeOption = Annotated[str, typer.Option("--dtype", help="float32 or float64.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a structure.")]
GoOnOption = Annotated[
    bool, typer.Option("--accept", help="Go on where a structure leaves the model's domain.")
]

# What every `neupol data` command takes.
DatasetOutput = Annotated[Path, typer.Option("-o", "--output", help="The HDF5 file to write.")]
LARGEST_SEED = 2**32 - 1  # of NumPy's generators
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Seed of the random partition.")
]
SplitFileOption = Annotated[
    Path | None,
    typer.Option(
        "--split-file",
        help="A published data set's own: JSON or .npz with the indices of each split.",
    ),
]
PartitionOption = Annotated[
    str | None,
    typer.Option(
        "--partition",
        metavar="TRAIN,VALID[,TEST]",
        help="Sizes of the splits; TEST is else the rest.",
    ),
]


def typed(ctx: typer.Context, name: str) -> bool:
    """Whether an option or argument stood on the command line, or in the file of --config."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "DEFAULT_MAP")


def replaced_option(name: str, instead: str) -> OptionInfo:
    """An option that earlier versions had: not in the help, and refused where it is used.

    Args:
        name: such as ``--part``.
        instead: what to write today.

    Raises:
        UsageError: where the option is given, before others are looked at.
    """

    def refuse(value: str | bool | None) -> str | bool | None:
        if value:
            raise UsageError(f"{name} is no longer an option; use {instead}")
        return value

    option: OptionInfo = typer.Option(name, hidden=True, is_eager=True, callback=refuse)
    return option


# What --partition was called before.
OldSplitOption = Annotated[str | None, replaced_option("--split", "--partition")]
