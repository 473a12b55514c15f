"""neupol vib: frequencies, infrared intensities and thermochemistry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neupol_cli import provenance
from neupol_cli.options import (
    PRESSURES,
    TEMPERATURES,
    AltlocOption,
    ChargeOption,
    DeviceOption,
    DtypeOption,
    FilesArgument,
    JsonOption,
    ModelOption,
    OnError,
    OnErrorOption,
    PbcOption,
    SpeciesOption,
    StrictOption,
    ThreadsOption,
    reading_of,
)

if TYPE_CHECKING:
    import torch

    from neupol_cli.models.property import PropertyModel
    from neupol_cli.simulation.potential import Potential
    from neupol_cli.simulation.vibrations import Vibrated


def vib(
    files: FilesArgument,
    model: ModelOption = None,
    dipole: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A model of dipoles, for infrared intensities.",
            show_default="that of -m, if it has one",
        ),
    ] = None,
    modes: Annotated[
        Path | None, typer.Option(help="Vibrations as vectors on the atoms, in .extxyz.")
    ] = None,
    delta: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="How far atoms are moved, Angstrom.")
    ] = 0.01,
    temperature: Annotated[
        float, typer.Option(min=1e-3, max=TEMPERATURES.high, help="K.")
    ] = 298.15,
    pressure: Annotated[float, typer.Option(min=1e-12, max=PRESSURES.high, help="bar.")] = 1.01325,
    symmetry_number: Annotated[
        int, typer.Option(min=1, help="In how many ways the molecule turns onto itself.")
    ] = 1,
    as_json: JsonOption = False,
    pbc: PbcOption = None,
    altloc: AltlocOption = None,
    species: SpeciesOption = None,
    on_error: OnErrorOption = OnError.fail,
    charge: ChargeOption = None,
    strict: StrictOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    dtype: DtypeOption = "float64",
) -> None:
    """Vibrations of structures by differences of a model's forces.

    Frequencies, zero-point energy, and enthalpy, entropy and Gibbs energy of a molecule as an ideal
    gas (rigid rotor, harmonic oscillators). Relax first: `neupol relax`.
    """
    from functools import partial

    from neupol_cli import threads as cores
    from neupol_cli.devices import device_named
    from neupol_cli.simulation import each, results, vibrations
    from neupol_cli.simulation.potential import Potential

    results.checked_output(modes)
    handling = each.Handling(reading_of(altloc, species, pbc), charge, on_error.value, strict)
    place = device_named(device)
    potential = Potential.load(model, place, dtype)
    dipoles = _dipoles(dipole, potential, place)
    cores.take(threads, place)
    options = vibrations.VibOptions(delta, temperature, pressure, symmetry_number, dipoles)
    work = partial(vibrations.vibrate, potential, options)
    frames = []
    for found in each.answers(work, each.accepted(files, potential, handling), handling):
        _print(found, as_json)
        if modes is not None:
            frames += vibrations.frames(found, potential)
    if modes is not None:
        results.write_frames(modes, frames)


def _dipoles(name: str | None, potential: Potential, place: torch.device) -> PropertyModel | None:
    """The model of dipoles: as named, or the potential's own if it has them."""
    from neupol_cli import registry
    from neupol_cli.simulation.vibrations import DIPOLE, check_dipoles

    if name is None and DIPOLE not in potential.model.targets:
        return None
    if name is None:
        return potential.model
    model = registry.load_property(name, place, potential.model.dtype)
    check_dipoles(model, name)
    return model


def _print(found: Vibrated, as_json: bool) -> None:
    import json

    from neupol_cli.console import stdout
    from neupol_cli.simulation import vibration_report

    if as_json:
        print(json.dumps(provenance.stamped(vibration_report.record(found))), flush=True)
        return
    print("\n".join(vibration_report.lines(found)))
    stdout().print(vibration_report.table(found))
