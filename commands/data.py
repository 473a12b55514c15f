"""``neupol data``: raw data into one HDF5 file with units, and what is in such a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neupol_cli.commands import data_density
from neupol_cli.options import (
    LARGEST_SEED,
    AltlocOption,
    DatasetOutput,
    OldSplitOption,
    OnError,
    OnErrorOption,
    PartitionOption,
    PbcOption,
    SeedOption,
    SpeciesOption,
    SplitFileOption,
    reading_of,
)

app = typer.Typer(
    name="data",
    help="Turn raw data into one HDF5 file with units, and show what is in such a file.",
    no_args_is_help=True,
)


@app.command()
def qm9(
    output: DatasetOutput,
    source: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the original files (dsgdb9nsd.xyz.tar.bz2 or the 133,885 xyz files, "
            "uncharacterized.txt, atomref.txt) instead of the qm9pack package."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    partition: PartitionOption = None,
    split_file: SplitFileOption = None,
    split: OldSplitOption = None,
    seed: SeedOption = 0,
) -> None:
    """QM9: 130,831 molecules, twelve targets, atom reference energies.

    The partition is 100,000 / 17,748 / 13,083 as in the literature ("paper"), or yours; with
    --partition torchmd 110,000 / 10,000 / 10,831 as TorchMD-NET and Equiformer draw them.
    """
    from dataclasses import replace

    from neupol_cli.datasets import qm9
    from neupol_cli.io import hdf5
    from neupol_cli.io.files import atomic
    from neupol_cli.progress import counted

    qm9.partition(limit or qm9.SIZE, partition, split_file, seed)  # refused before the work
    with atomic(output) as partial, counted("reading QM9", limit or qm9.SIZE) as tick:
        dataset = qm9.from_files(source, limit, tick) if source else qm9.from_package(limit, tick)
        made = qm9.partition(dataset.size, partition, split_file, seed)
        hdf5.save(partial, replace(dataset, splits=made), single=True)


@app.command()
def md17(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE.npz...", help="Frames to learn from.")
    ],
    output: DatasetOutput,
    test: Annotated[
        list[Path] | None, typer.Option(help="A file whose frames are the test set; repeatable.")
    ] = None,
    partition: PartitionOption = None,
    split_file: SplitFileOption = None,
    split: OldSplitOption = None,
    seed: SeedOption = 0,
    old: Annotated[
        bool, typer.Option(help="Of a revised file, take the original MD17 labels.")
    ] = False,
) -> None:
    """MD17, original or revised: energies (eV) and forces (eV/Angstrom) of one molecule."""
    from neupol_cli.datasets import md17, splits
    from neupol_cli.io import hdf5
    from neupol_cli.io.files import atomic

    counts = splits.wanted(partition, split_file)
    with atomic(output) as partial:
        hdf5.save(partial, md17.read(files, test or (), counts, seed, old))


@app.command()
def xyz(
    frames: Annotated[
        list[str],
        typer.Argument(metavar="FRAMES...", help="Files, SMILES in tables too, or - for stdin."),
    ],
    output: DatasetOutput,
    energy_key: Annotated[str | None, typer.Option(help="Label of the energy.")] = None,
    forces_key: Annotated[str | None, typer.Option(help="Label of the forces.")] = None,
    energy_unit: Annotated[str, typer.Option(help="Its unit in the files.")] = "eV",
    forces_unit: Annotated[str, typer.Option(help="Their unit in the files.")] = "eV/Angstrom",
    target: Annotated[
        list[str] | None, typer.Option(metavar="KEY=UNIT", help="Any other label; repeatable.")
    ] = None,
    test: Annotated[
        list[Path] | None, typer.Option(help="A file whose frames are the test set; repeatable.")
    ] = None,
    partition: PartitionOption = None,
    split_file: SplitFileOption = None,
    split: OldSplitOption = None,
    seed: SeedOption = 0,
    missing: Annotated[
        OnError, typer.Option(help="A structure that lacks a label of others.")
    ] = OnError.fail,
    pbc: PbcOption = None,
    altloc: AltlocOption = None,
    species: SpeciesOption = None,
    on_error: OnErrorOption = OnError.fail,
) -> None:
    """Labelled structures in any format of ASE; a label that is not there is an error.

    Without a key, the labels "energy" and "forces" are taken where any structure has them. A stress
    or virial of six numbers is in Voigt's order: xx yy zz yz xz xy.
    """
    from neupol_cli import threads
    from neupol_cli.datasets import splits, xyz
    from neupol_cli.io import hdf5
    from neupol_cli.io.files import atomic
    from neupol_cli.progress import counted

    labels = dict(xyz.parse_label(text) for text in target or ())
    if energy_key:
        labels["energy"] = (energy_key, energy_unit)
    if forces_key:
        labels["forces"] = (forces_key, forces_unit)
    counts = splits.wanted(partition, split_file)
    units = (energy_unit, forces_unit)
    threads.take(None, None)  # of which SMILES make use
    with atomic(output) as partial, counted("reading frames", None) as tick:
        dataset = xyz.read(
            frames, labels, units, test or (), counts, seed, on_error.value, missing.value, tick,
            reading_of(altloc, species, pbc),
        )  # fmt: skip
        hdf5.save(partial, dataset)


@app.command()
def nbody(
    output: DatasetOutput,
    train: Annotated[int, typer.Option(min=1, help="Systems to learn from.")] = 3000,
    valid: Annotated[int, typer.Option(min=0, help="Systems to validate on.")] = 2000,
    test: Annotated[int, typer.Option(min=0, help="Systems to test on.")] = 2000,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="43: the systems of the published data.")
    ] = 43,
) -> None:
    """Five charged particles in empty space: simulated, seen at step 3,100, asked for at 4,100."""
    from neupol_cli.datasets import nbody
    from neupol_cli.io import hdf5
    from neupol_cli.io.files import atomic
    from neupol_cli.progress import counted

    sizes = {"train": train, "valid": valid, "test": test}
    with atomic(output) as partial, counted("simulating", sum(sizes.values())) as tick:
        hdf5.save(partial, nbody.build(sizes, seed, tick))


@app.command()
def info(
    file: Annotated[Path, typer.Argument(help="A file that `neupol data` wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """What is in a file: kind, units, counts, elements, ranges, splits, references."""
    import json

    from neupol_cli.datasets.summary import summary, tables
    from neupol_cli.io import hdf5

    description = summary(hdf5.read(file))
    if as_json:
        typer.echo(json.dumps({"file": str(file), **description}))
        return
    from neupol_cli.console import stdout

    console = stdout()
    for table in tables(str(file), description):
        console.print(table)


app.command()(data_density.density)
app.command()(data_density.dft)
