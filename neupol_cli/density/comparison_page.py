"""Two densities on one page: their difference to turn, and beside it every number of the report."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from html import escape

import numpy as np

from neupol_cli.density import radial
from neupol_cli.density.comparison import ComparedDensity
from neupol_cli.density.parts import AtomParts
from neupol_cli.density.radial import RadialProfile
from neupol_cli.errors import UsageError
from neupol_cli.io import structures
from neupol_cli.surfaces import page
from neupol_cli.surfaces.scene import Scene, density_layer, signed_layer

SHELLS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)  # Angstrom from the nearest atom, between rows of a table

Cells = Iterable[str]


def drawn(reports: Iterable[ComparedDensity], name: str | None) -> Iterator[ComparedDensity]:
    """The same reports, each behind its page.

    Args:
        reports: with the pairs they are of, where there are pages.
        name: the pages' file; ``{}`` stands for the density's number. None: no pages.

    Raises:
        UsageError: one file is to be the page of several.
        StorageError: a page cannot be written.
    """
    for number, report in enumerate(reports):
        if name is not None:
            if number > 0 and "{}" not in name:
                raise UsageError(f"{name}: for several densities the name needs {{}}")
            report.plot = name.replace("{}", str(number))
            page.write(report.plot, scene(report))
            report.pair = None  # which is large
        yield report


def scene(report: ComparedDensity) -> Scene:
    """What the page of a report shows: the difference first, then both densities."""
    pair, atoms = report.pair, report.atoms
    assert pair is not None and pair.truth is not None and atoms is not None
    layers = [
        signed_layer(pair.judged.values - pair.truth.values, f"{pair.judged_as} minus reference"),
        density_layer(pair.judged.values, pair.judged_as),
        density_layer(pair.truth.values, "reference"),
    ]
    charges = {}
    if atoms.charges is not None and atoms.charges_reference is not None:
        charges["Hirshfeld"] = atoms.charges
        charges["Hirshfeld (reference)"] = atoms.charges_reference
    title = f"{structures.short(report.structure)} ({report.formula})"
    place = pair.judged
    return Scene(title, place.atoms, place.grid, layers, charges, beside(report))


def beside(report: ComparedDensity) -> str:
    """The column beside the picture, HTML."""
    profile, atoms = report.profile, report.atoms
    assert profile is not None and atoms is not None
    picture = base64.b64encode(radial.drawing(profile)).decode()
    return (
        f"<h1>eps_mae <b id='eps-mae'>{report.eps_mae_percent:.4f}</b> %</h1>"
        f"{_totals(report)}"
        "<h2>By distance from the nearest atom</h2>"
        f"<img alt='density and error against the distance' "
        f"src='data:image/svg+xml;base64,{picture}'>{_shells(profile)}"
        f"<h2>By nearest atom</h2>{_atoms(atoms)}"
    )


def _totals(report: ComparedDensity) -> str:
    pair, atoms = report.pair, report.atoms
    assert pair is not None and atoms is not None
    electrons = [report.electrons_sum_predicted, report.electrons_sum]
    zeta = [report.zeta_predicted, report.zeta]
    if pair.truth_given:
        electrons = [report.electrons_sum, report.electrons_sum_reference]
        zeta = [report.zeta, report.zeta_reference]
    rows = [
        ("electrons, sum over the grid", *(f"{number:.6f}" for number in electrons)),
        ("zeta, angular variation", *(f"{number:.5f}" for number in zeta)),
    ]
    dipoles = [d for d in (atoms.dipole, atoms.dipole_reference) if d is not None]
    if dipoles:
        rows.append(("dipole, D", *(f"{np.linalg.norm(dipole):.4f}" for dipole in dipoles)))
        for axis, name in enumerate("xyz"):
            rows.append((f"{name}, D", *(f"{dipole[axis]:.4f}" for dipole in dipoles)))
    return _table("totals", ("", pair.judged_as, "reference"), rows)


def _shells(profile: RadialProfile) -> str:
    percent = profile.error_percent
    assert percent is not None
    rows, starts = [], profile.edges[:-1] + 0.5 * radial.STEP
    for low, high in zip(SHELLS, (*SHELLS[1:], np.inf), strict=True):
        within = (starts > low) & (starts < high)
        name = f"{low:g} to {high:g} Å" if np.isfinite(high) else f"beyond {low:g} Å"
        sums = (profile.electrons[within].sum(), percent[within].sum())
        rows.append((name, *(f"{value:.4f}" for value in sums)))
    return _table("shells", ("", "electrons of the reference", "eps_mae, %"), rows)


def _atoms(atoms: AtomParts) -> str:
    heads = ["", "error, electrons", "eps_mae, %"]
    columns = [atoms.errors, atoms.error_percent]
    if atoms.charges is not None and atoms.charges_reference is not None:
        heads += ["Hirshfeld charge, e", "reference, e"]
        columns += [atoms.charges, atoms.charges_reference]
    rows = [
        (f"{symbol} {index + 1}", *(f"{column[index]:.4f}" for column in columns))
        for index, symbol in enumerate(atoms.symbols)
    ]
    return _table("atoms", heads, rows)


def _table(name: str, heads: Sequence[str], rows: Iterable[Cells]) -> str:
    def row(cells: Cells, kind: str) -> str:
        first, *others = map(escape, cells)
        return f"<tr><th>{first}</th>" + "".join(f"<{kind}>{x}</{kind}>" for x in others) + "</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f"<table id='{name}'>{row(heads, 'th')}{body}</table>"
