"""``neupol data density`` and ``neupol data dft``: electron densities into one HDF5 file."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neupol_cli.errors import UsageError
from neupol_cli.options import (
    LARGEST_SEED,
    AcceptOption,
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
    typed,
)

if TYPE_CHECKING:
    from neupol_cli.datasets.density import Report
    from neupol_cli.datasets.dft import Begin
    from neupol_cli.datasets.solution import Engine as Program

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


class Engine(StrEnum):
    """The programs that make densities here."""

    pyscf = "pyscf"
    cp2k = "cp2k"


class Start(StrEnum):
    """What PySCF's SCFs begin with."""

    minao = "minao"
    density = "density"


# The options that one program reads and the other one does not.
OPTIONS_OF = {
    Engine.pyscf: ("xc", "basis", "pseudo", "start", "margin", "spin"),
    Engine.cp2k: ("kspacing", "smearing", "cutoff"),
}

OPTIONS_OF_DENSITIES = ("spacing", "margin", "spin")


def dft(
    ctx: typer.Context,
    structures: Annotated[
        list[str],
        typer.Argument(metavar="STRUCTURES...", help="Structures, or SMILES; - is stdin."),
    ],
    output: DatasetOutput,
    engine: Annotated[
        Engine, typer.Option(help="Who computes: PySCF molecules, CP2K crystals.")
    ] = Engine.pyscf,
    densities: Annotated[
        bool, typer.Option("--density/--no-density", help="Store densities, or labels alone.")
    ] = True,
    xc: Annotated[str, typer.Option(help="PySCF: functional, as it names it.")] = "pbe",
    basis: Annotated[str, typer.Option(help="PySCF: basis set.")] = "gth-dzvp",
    pseudo: Annotated[
        str, typer.Option(help="PySCF: pseudopotential; none: all electrons.")
    ] = "gth-pbe",
    start: Annotated[
        Start, typer.Option(help="PySCF: first guess; density: the bundled model's.")
    ] = Start.minao,
    spacing: Annotated[float, typer.Option(help="Largest step of the grid, Angstrom.")] = 0.2,
    margin: Annotated[
        float, typer.Option(help="PySCF: of the grid, around the molecule, Angstrom.")
    ] = 3.6,
    kspacing: Annotated[
        float, typer.Option(min=0.01, help="CP2K: between k-points, 1/Angstrom.")
    ] = 0.5,
    smearing: Annotated[
        float, typer.Option(min=0, help="CP2K: electronic temperature, K; 0 for insulators.")
    ] = 600.0,
    cutoff: Annotated[
        float, typer.Option(min=1, help="CP2K: of the density's plane waves, Ry.")
    ] = 280.0,
    rattle: Annotated[
        float | None,
        typer.Option(min=0, metavar="SIGMA", help="Copies with atoms displaced so far, Angstrom."),
    ] = None,
    copies: Annotated[
        int | None, typer.Option(min=1, help="So many of each structure, with --rattle; else 1.")
    ] = None,
    limit_minutes: Annotated[
        float | None, typer.Option(min=0, help="Give up a structure that takes longer.")
    ] = None,
    partition: PartitionOption = None,
    split: OldSplitOption = None,
    seed: Annotated[
        int,
        typer.Option(min=0, max=LARGEST_SEED, help="Of the random partition, and of --rattle."),
    ] = 0,
    spin: Spin = False,
    free_atoms: Annotated[
        bool,
        typer.Option(help="Energies of free atoms, too: references for learning energies."),
    ] = True,
    pbc: PbcOption = None,
    altloc: AltlocOption = None,
    species: SpeciesOption = None,
    on_error: OnErrorOption = OnError.skip,
) -> None:
    """Make densities, energies, forces and dipoles by DFT: PySCF (extra: dft) or CP2K.

    The file trains densities and properties (neupol fit egnn OUTPUT --target energy,forces);
    energies of free atoms are in it as references (a minute or more an element by CP2K: training
    a density needs none, --no-free-atoms). Finished structures are kept in
    OUTPUT.molecules until all are there: a call that was interrupted goes on where it was. Charge
    and unpaired electrons (2S) are read from the structure's "charge" and "spin". With --rattle
    the structures themselves are not computed.
    """
    from neupol_cli.datasets import dft_job, splits
    from neupol_cli.io import structures as reader
    from neupol_cli.progress import counted

    _refuse_unread(ctx, engine, densities)
    counts = splits.parse(partition) if partition else None
    if copies is not None and rattle is None:
        raise UsageError("--copies counts displaced structures: add --rattle SIGMA")
    of_pyscf, of_cp2k = (xc, basis, pseudo, margin), (kspacing, smearing, cutoff)
    program = _program(engine, of_pyscf, of_cp2k, spacing, start)
    limit = 60.0 * limit_minutes if limit_minutes is not None else float("inf")
    skip = on_error is OnError.skip
    choices = dft_job.Choices(densities, spin, free_atoms, limit, skip, counts, seed)
    reading = reading_of(altloc, species, pbc)
    frames = list(reader.read(structures, on_error.value, reading=reading))
    if rattle is not None:
        from neupol_cli.datasets.rattled import rattled

        frames = list(rattled(frames, rattle, copies or 1, seed))
    done = 0
    with counted("computing structures", len(frames)) as bar:

        def tick(name: str, trouble: str | None) -> None:
            nonlocal done
            done += 1
            bar(done)
            if trouble:
                typer.echo(f"neupol: {trouble} (skipped)", err=True)

        made = dft_job.collect(frames, output, program, choices, tick)
    what = f"{'densities' if densities else 'structures'} with energies and forces"
    _tell(made.report, output, what, dft_job.told(made.failures))


def _refuse_unread(ctx: typer.Context, engine: Engine, densities: bool) -> None:
    """UsageError for an option that only another program reads, or only densities."""
    for name in () if densities else OPTIONS_OF_DENSITIES:
        if typed(ctx, name):
            raise UsageError(f"--{name} is for densities: leave it out, or --no-density")
    for other, names in OPTIONS_OF.items():
        for name in names:
            if other is not engine and typed(ctx, name):
                raise UsageError(f"--{name} is not for --engine {engine.value}")


def _program(
    engine: Engine,
    of_pyscf: tuple[str, str, str, float],
    of_cp2k: tuple[float, float, float],
    spacing: float,
    start: Start,
) -> Program:
    """The program with its settings; UsageError where it is not installed."""
    if engine is Engine.pyscf:
        from neupol_cli.datasets import dft

        xc, basis, pseudo, margin = of_pyscf
        return dft.PySCF(dft.Settings(xc, basis, pseudo, spacing, margin), _begin(start))
    from neupol_cli.datasets import cp2k

    kspacing, smearing, cutoff = of_cp2k
    settings = cp2k.Settings(cutoff=cutoff, kspacing=kspacing, smearing=smearing, spacing=spacing)
    return cp2k.CP2K(settings)


def _begin(start: Start) -> Begin | None:
    """What makes the first density matrix where PySCF's own is not wanted."""
    if start is Start.minao:
        return None
    from neupol_cli import registry
    from neupol_cli.scf_start import initial_density_matrix

    return partial(initial_density_matrix, model=registry.load_density("density"))


def _tell(report: Report, output: Path, what: str = "densities", reasons: str = "") -> None:
    """What became of the files, in a few lines on stderr; ``reasons`` count those that failed."""
    from ase.data import chemical_symbols

    split = ", ".join(f"{name} {size}" for name, size in report.split.items())
    lines = [f"{output}: {report.read} {what} ({split})"]
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
        lines.append(f"{len(report.failed)} could not be used{f': {reasons}' * bool(reasons)}")
    for line in lines:
        typer.echo(line, err=True)
