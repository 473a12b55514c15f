"""Valence electron densities made with PySCF: molecules in, a density file out.

Kohn-Sham DFT with density fitting and (by default) GTH pseudopotentials, so that the density is
smooth enough for a grid and a CHGCAR. Finished molecules are kept beside the output until all
of them are in it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from neupol_cli.datasets.density import Collector, Report
from neupol_cli.errors import InputError, NeupolError, TemporaryError, UsageError
from neupol_cli.io import volumetric
from neupol_cli.io.charges import multiplicity, state, total_charge
from neupol_cli.io.density_writer import DensityWriter
from neupol_cli.io.files import placed
from neupol_cli.io.units import BOHR, HARTREE
from neupol_cli.io.volumetric import Volume, by_spacing

if TYPE_CHECKING:
    from ase import Atoms
    from pyscf.gto import Mole

BLOCK = 20_000  # grid points whose orbitals are in memory at once


@dataclass(frozen=True)
class Settings:
    """The level of theory and the grid (Angstrom); ``pseudo`` is ``none`` for all electrons."""

    xc: str = "pbe"
    basis: str = "gth-dzvp"
    pseudo: str = "gth-pbe"
    spacing: float = 0.2
    margin: float = 3.6

    @property
    def level(self) -> str:
        """Functional, pseudopotential and basis."""
        return f"{self.xc} / {self.pseudo} / {self.basis}"

    def __str__(self) -> str:
        return f"{self.level}, density fitting"


def require() -> ModuleType:
    """PySCF, or UsageError that says how to get it."""
    try:
        return importlib.import_module("pyscf")
    except ImportError as trouble:
        raise UsageError("PySCF is not installed: pip install 'neupol[dft]'") from trouble


def in_time(until: float) -> Callable[[object], None]:
    """For PySCF to call in every cycle: TemporaryError once `time.monotonic` is past ``until``."""

    def check(cycle: object) -> None:
        if time.monotonic() > until:
            raise TemporaryError("took longer than the time that was left")

    return check


@contextmanager
def reported(label: str) -> Iterator[None]:
    """Whatever PySCF or its libraries raise within becomes InputError with its label."""
    try:
        yield
    except NeupolError:
        raise
    except Exception as trouble:  # their types are as many as their libraries
        reason = " ".join(f"{type(trouble).__name__}: {trouble}".split())[:200]
        raise InputError(f"{label}: PySCF: {reason}") from trouble


def solve(
    atoms: Atoms, settings: Settings, label: str, until: float = np.inf
) -> tuple[Volume, dict[int, float]]:
    """The density of one molecule, and the charge of each element's ion.

    Charge and multiplicity are those that the structure states (io/charges.py); else it is neutral
    and as low-spin as its electrons allow. Notes: electrons, energy (eV), dipole (D).

    Raises:
        InputError: it is periodic, has elements without basis, or does not converge.
        TemporaryError: when `time.monotonic` passes ``until`` meanwhile.
    """
    if atoms.pbc.any():
        raise InputError(f"{label}: is periodic; PySCF's densities are made of molecules here")
    with reported(label):
        return _solve(atoms, settings, label, until)


def _solve(
    atoms: Atoms, settings: Settings, label: str, until: float
) -> tuple[Volume, dict[int, float]]:
    from pyscf import dft

    molecule = _molecule(atoms, settings)
    method = (dft.UKS if molecule.spin else dft.RKS)(molecule).density_fit()
    method.xc, method.callback = settings.xc, in_time(until)
    energy = method.kernel()
    if not method.converged:
        raise InputError(f"{label}: the SCF did not converge in {method.max_cycle} cycles")
    matrices = np.asarray(method.make_rdm1())
    dipole = np.asarray(method.dip_moment(unit="DEBYE", verbose=0))
    grid = by_spacing(atoms, settings.spacing, settings.margin)
    notes = {"electrons": float(molecule.nelectron), "energy": energy * HARTREE, "dipole": dipole}
    pair = matrices if matrices.ndim == 3 else np.stack([matrices / 2, matrices / 2])
    up, down = (_on_grid(molecule, matrix, grid) for matrix in pair)
    spin = up - down if molecule.spin else None
    charges = zip(atoms.numbers.tolist(), molecule.atom_charges().tolist(), strict=True)
    return Volume(atoms, grid, up + down, spin, notes), {z: float(q) for z, q in charges}


def _molecule(atoms: Atoms, settings: Settings) -> Mole:
    from pyscf import gto

    places = zip(atoms.get_chemical_symbols(), atoms.positions / BOHR, strict=True)
    molecule = gto.Mole(verbose=0, unit="Bohr", basis=settings.basis)
    molecule.atom = [(symbol, tuple(place)) for symbol, place in places]
    if settings.pseudo.lower() != "none":
        molecule.pseudo = settings.pseudo
    charge, spin = state(atoms)
    molecule.charge, molecule.spin = charge, spin - 1
    return molecule.build()


def _on_grid(molecule: Mole, matrix: np.ndarray, grid: volumetric.Grid) -> np.ndarray:
    """Density of one density matrix, (n1, n2, n3) e/Angstrom^3."""
    values = np.empty(grid.size)
    for start in range(0, grid.size, BLOCK):
        points = grid.points(start, min(start + BLOCK, grid.size)) / BOHR
        orbitals = molecule.eval_gto("GTOval", points)  # (P, O)
        values[start : start + BLOCK] = np.einsum("po,po->p", orbitals @ matrix, orbitals)
    return values.reshape(grid.shape) / BOHR**3


class Store:
    """Finished molecules beside the output, one file each, found again by what they are."""

    def __init__(self, output: Path, settings: Settings) -> None:
        place = placed(output)
        self.folder = place.with_name(place.name + ".molecules")
        self.settings = json.dumps(asdict(settings), sort_keys=True)

    def path(self, atoms: Atoms) -> Path:
        """Where a molecule at these settings is kept."""
        digest = hashlib.sha256(self.settings.encode())
        for part in (atoms.numbers.astype(np.int64), atoms.positions.astype(np.float64)):
            digest.update(np.ascontiguousarray(part).tobytes())
        stated = [total_charge(atoms) or 0, (multiplicity(atoms) or 1) - 1]
        digest.update(json.dumps(stated).encode())
        return self.folder / f"{digest.hexdigest()[:24]}.h5"

    def find(self, atoms: Atoms) -> tuple[Volume, dict[int, float]] | None:
        """A molecule that was finished earlier; a damaged file counts as none."""
        path = self.path(atoms)
        if not path.exists():
            return None
        try:
            volume = volumetric.h5.read(path)
            table = json.loads(path.with_suffix(".json").read_text())
        except (NeupolError, OSError, ValueError):
            return None
        return volume, {int(z): float(q) for z, q in table.items()}

    def keep(self, volume: Volume, charges: dict[int, float]) -> None:
        """Put a finished molecule down; it is complete or not there."""
        self.folder.mkdir(exist_ok=True)
        path = self.path(volume.atoms)
        path.with_suffix(".json").write_text(json.dumps(charges))
        volumetric.h5.write(path, [volume], "PySCF")

    def clear(self) -> None:
        """Remove what the finished output has."""
        shutil.rmtree(self.folder, ignore_errors=True)


def collect(
    frames: Iterable[tuple[str, Atoms]],
    output: Path,
    settings: Settings,
    counts: tuple[int, ...] | None = None,
    seed: int = 0,
    skip: bool = True,
    spin: bool = False,
    tick: Callable[[str, str | None], None] = lambda label, trouble: None,
) -> Report:
    """Write the density file of all molecules; those finished by an earlier call are not remade.

    ``skip`` goes on after a molecule that cannot be made (it is in the report). The finished ones
    stay in ``OUTPUT.molecules`` until every molecule is in the output.
    """
    version = require().__version__
    store, valences = Store(output, settings), dict[int, float]()
    source = f"PySCF {version}, {settings}"
    with DensityWriter(output, source=source, spin=spin) as writer:
        collector = Collector(writer)
        for label, atoms in frames:
            trouble = None
            try:
                volume, charges = _found_or_made(store, atoms, settings, label)
                collector.add(label, volume, identity=collector.report.read)
                valences |= charges
            except InputError as error:
                if not skip:
                    raise
                trouble = str(error)
                collector.report.failed.append(trouble)
            tick(label, trouble)
        report = collector.finish(counts, seed, valences)
    if not report.failed:
        store.clear()
    return report


def _found_or_made(
    store: Store, atoms: Atoms, settings: Settings, label: str
) -> tuple[Volume, dict[int, float]]:
    solution = store.find(atoms)
    if solution is None:
        solution = solve(atoms, settings, label)
        store.keep(*solution)
    return solution
