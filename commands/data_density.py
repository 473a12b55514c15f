"""``neupol data density`` and ``neupol data dft``: electron densities into one HDF5 file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neupol_cli.options import (
    AcceptOption,
    DatasetOutput,
    OldSplitOption,
    OnError,
    OnErrorOption,
    PartitionOption,
    PbcOption,
    SeedOption,
    SplitFileOption,
)

if TYPE_CHECKING:
    from neupol_cli.datasets.density import Report

SHOWN = 10  # how many of the odd files are named


Spin = Annotated[bool, typer.Option("--spin", help="Store up minus down as well.")]


def density(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES...", help="Cubes, CHGCARs, XSFs, HDF5, folders, tars, lists."
        ),
    ],
    output: DatasetOutput,
    partition: PartitionOption = None,
    split_file: SplitFileOption = None,
    split: OldSplitOption = None,
    seed: SeedOption = 0,
    spin: Spin = False,
    pbc: PbcOption = None,
    accept: AcceptOption = False,
    on_error: OnErrorOption = OnError.skip,
) -> None:
    """Electron densities from files: cube, CHGCAR/CHG/AECCAR, XSF, HDF5, npz, npy, folders, tars.

    A .txt file lists others, one a line; NAME.npy has its structure in NAME_atoms.pkl. Members may
    be plain, .gz, .zz (zlib) or .lz4. Each density is checked: counts, widths, finite values, and
    that it is one: its title, its lowest values, and that its electrons are what the file says,
    and what its atoms can have.
    Without --partition at most 50 structures are held out for testing and 40 for validation.
    """
    from neupol_cli.datasets import density, splits
    from neupol_cli.progress import counted

    counts = splits.wanted(partition, split_file)
    done = 0
    with counted("reading densities", None) as bar:

        def tick(name: str, trouble: str | None) -> None:
            nonlocal done
            done += 1
            bar(done)
            if trouble:
                typer.echo(f"neupol: {trouble} (skipped)", err=True)

        skip = on_error is OnError.skip
        choices = density.Choices(spin, pbc, accept)
        report = density.collect(files, output, counts, seed, skip, choices, tick)
    _tell(report, output)


def dft(
    structures: Annotated[
        list[str], typer.Argument(metavar="STRUCTURES...", help="Molecules, or SMILES; - is stdin.")
    ],
    output: DatasetOutput,
    xc: Annotated[str, typer.Option(help="Functional, as PySCF names it.")] = "pbe",
    basis: Annotated[str, typer.Option(help="Basis set.")] = "gth-dzvp",
    pseudo: Annotated[str, typer.Option(help="Pseudopotential; none: all electrons.")] = "gth-pbe",
    spacing: Annotated[float, typer.Option(help="Largest step of the grid, Angstrom.")] = 0.2,
    margin: Annotated[float, typer.Option(help="Around the molecule, Angstrom.")] = 3.6,
    partition: PartitionOption = None,
    split: OldSplitOption = None,
    seed: SeedOption = 0,
    spin: Spin = False,
    on_error: OnErrorOption = OnError.skip,
) -> None:
    """Make densities with PySCF (extra: dft): Kohn-Sham DFT with density fitting.

    Finished molecules are kept in OUTPUT.molecules until all are there: a call that was
    interrupted goes on where it was. Charge and unpaired electrons (2S) are read from the
    structure's "charge" and "spin".
    """
    from neupol_cli.datasets import dft, splits
    from neupol_cli.io import structures as reader
    from neupol_cli.progress import counted

    counts = splits.parse(partition) if partition else None
    dft.require()
    settings = dft.Settings(xc, basis, pseudo, spacing, margin)
    frames = list(reader.read(structures, on_error.value))
    done = 0
    with counted("making densities", len(frames)) as bar:

        def tick(name: str, trouble: str | None) -> None:
            nonlocal done
            done += 1
            bar(done)
            if trouble:
                typer.echo(f"neupol: {trouble} (skipped)", err=True)

        skip = on_error is OnError.skip
        report = dft.collect(frames, output, settings, counts, seed, skip, spin, tick)
    _tell(report, output)


def _tell(report: Report, output: Path) -> None:
    """What became of the files, in a few lines on stderr."""
    from ase.data import chemical_symbols

    split = ", ".join(f"{name} {size}" for name, size in report.split.items())
    lines = [f"{output}: {report.read} densities ({split})"]
    if report.sum_errors:
        mean = sum(report.sum_errors) / len(report.sum_errors)
        lines.append(
            f"electrons: grid sums differ from those stated by {100 * mean:.2f} % on average, "
            f"{100 * max(report.sum_errors):.2f} % at most (a coarse grid's own error)"
        )
    if report.valence:
        table = " ".join(f"{chemical_symbols[z]} {n:g}" for z, n in sorted(report.valence.items()))
        lines.append(f"electrons an atom brings: {table}")
    lines += report.odd[:SHOWN]
    for kind, names in report.guessed.items():
        other = "--no-pbc" if kind == "periodic" else "--pbc"
        lines.append(
            f"{len(names)} cubes do not say whether they are periodic and were taken for {kind} "
            f"({Path(names[0]).name} ...); {other} if they are not"
        )
    for taken, names in report.units.items():
        lines.append(f"{len(names)} files ({Path(names[0]).name} ...): {taken}")
    if report.failed:
        lines.append(f"{len(report.failed)} could not be used")
    for line in lines:
        typer.echo(line, err=True)
