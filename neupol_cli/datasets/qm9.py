"""QM9: 130,831 small organic molecules with twelve properties each.

Ramakrishnan, Dral, Rupp, von Lilienfeld, Sci. Data 1, 140022 (2014): B3LYP/6-31G(2df,p). Of its
133,885 molecules, 3,054 did not keep their bonds in the relaxation ("uncharacterized") and are
left out, as everybody does.
"""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import numpy as np

from neupol_cli.datasets import gdb, splits
from neupol_cli.errors import InputError, UsageError
from neupol_cli.io import units
from neupol_cli.io.hdf5 import Dataset, Target
from neupol_cli.io.structure_formats.numerals import table
from neupol_cli.progress import Tick
from neupol_cli.targets import TARGETS

SIZE = 130_831
PAPER = (100_000, 17_748, 13_083)  # the usual split
TORCHMD = (110_000, 10_000)  # that of TorchMD-NET; the rest is for testing
NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
SOURCE = "QM9, Ramakrishnan et al., Sci. Data 1, 140022 (2014), doi 10.6084/m9.figshare.978904"

# target -> (column of qm9pack's CSV files, unit there)
COLUMNS = {
    "mu": ("Dipole_debye", "D"),
    "alpha": ("Polarizability_bohr3", "bohr^3"),
    "homo": ("HOMO_au", "Hartree"),
    "lumo": ("LUMO_au", "Hartree"),
    "gap": ("HOMO_LUMO_gap_au", "Hartree"),
    "r2": ("R2_bohr2", "bohr^2"),
    "zpve": ("ZPVE_au", "Hartree"),
    "U0": ("InternalEnergy_0K_au", "Hartree"),
    "U": ("InternalEnergy_298K_au", "Hartree"),
    "H": ("Enthalphy_298K_au", "Hartree"),
    "G": ("GibbsFreeEnergy_298K_au", "Hartree"),
    "Cv": ("Heatcapacity_Cv_cal_mol_K", "cal/mol/K"),
}

# Free atoms at the same level: atomref.txt of the data set (doi 10.6084/m9.figshare.1057643),
# Hartree, Cv in cal/mol/K; order H C N O F.
ATOMS: dict[str, tuple[float, ...]] = {
    "zpve": (0.0, 0.0, 0.0, 0.0, 0.0),
    "U0": (-0.500273, -37.846772, -54.583861, -75.064579, -99.718730),
    "U": (-0.498857, -37.845355, -54.582445, -75.063163, -99.717314),
    "H": (-0.497912, -37.844411, -54.581501, -75.062219, -99.716370),
    "G": (-0.510927, -37.861317, -54.598897, -75.079532, -99.733544),
    "Cv": (2.981, 2.981, 2.981, 2.981, 2.981),
}


def from_package(limit: int | None = None, tick: Tick = lambda done: None) -> Dataset:
    """QM9 from the CSV files of the ``qm9pack`` package, which has 130,831 molecules.

    The package is found and not imported: its code needs modules that Python no longer ships.

    Raises:
        UsageError: it is not installed.
        InputError: ``file:line`` when a row is damaged.
    """
    package = importlib.util.find_spec("qm9pack")
    if package is None or not package.submodule_search_locations:
        raise UsageError(
            "the package qm9pack is not installed: pip install 'neupol[qm9]', or --source"
        )
    folder = Path(package.submodule_search_locations[0]) / "data"
    rows = _Table()
    for path in sorted(folder.glob("qm9_part*.csv")):
        _read_csv(path, rows, limit, tick)
    return rows.dataset(f"{SOURCE}; qm9pack")


def from_files(source: Path, limit: int | None = None, tick: Tick = lambda done: None) -> Dataset:
    """QM9 from its original files or archive; the uncharacterised molecules are left out.

    Reference energies come from ``atomref.txt`` where it is there.

    Raises:
        InputError: ``file:line``.
    """
    unwanted = gdb.uncharacterised(source)
    rows = _Table()
    for molecule in gdb.molecules(source):
        if molecule.index in unwanted:
            continue
        rows.add(
            molecule.index, molecule.symbols, ",".join(molecule.positions), molecule.properties
        )
        if len(rows.ids) % 1000 == 0:
            tick(len(rows.ids))
        if len(rows.ids) == limit:
            break
    return rows.dataset(f"{SOURCE}; original files", gdb.free_atoms(source))


class _Table:
    """Columns as text while rows come in; numbers at once at the end, which is the fast way."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.counts: list[int] = []
        self.elements: list[str] = []
        self.positions: list[str] = []
        self.targets: list[list[str]] = []

    def add(self, index: int, symbols: list[str], positions: str, targets: list[str]) -> None:
        self.ids.append(index)
        self.counts.append(len(symbols))
        self.elements.extend(symbols)
        self.positions.append(positions)
        self.targets.append(targets)

    def dataset(self, source: str, atoms: dict[str, list[float]] | None = None) -> Dataset:
        if not self.ids:
            raise InputError(f"{source}: no molecule is left")
        columns = self._columns(source)
        targets = {
            name: Target(units.convert(values, unit, TARGETS[name].unit), TARGETS[name].unit)
            for (name, (_, unit)), values in zip(COLUMNS.items(), columns, strict=True)
        }
        return Dataset(
            "structures",
            numbers=np.array([NUMBERS[symbol] for symbol in self.elements], np.int64),
            positions=self._positions(source),
            offsets=np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64),
            targets=targets,
            references=references(atoms),
            source=source,
            ids=np.array(self.ids, np.int64),
        )

    def _columns(self, source: str) -> np.ndarray:
        """(12,N) properties in the units of the source."""
        try:
            return table(self.targets).T
        except ValueError as error:
            raise InputError(f"{source}: a property is damaged ({error})") from error

    def _positions(self, source: str) -> np.ndarray:
        """(A,3) Angstrom; one call reads all numbers, and stops where one is damaged."""
        positions = np.fromstring(",".join(self.positions), sep=",")
        if len(positions) != 3 * len(self.elements) or not np.isfinite(positions).all():
            raise InputError(
                f"{source}: a position is not a number, near atom {len(positions) // 3}"
            )
        return positions.reshape(-1, 3)


def _read_csv(path: Path, table: _Table, limit: int | None, tick: Tick) -> None:
    with path.open(newline="") as lines:
        rows = csv.reader(lines)
        where = {name: column for column, name in enumerate(next(rows, []))}
        columns = [where[column] for column, _ in COLUMNS.values()]
        index, elements, positions = where["Index"], where["Elements"], where["XYZ_Ang"]
        for row in rows:
            if len(table.ids) == limit:
                return
            if len(row) != len(where):
                raise InputError(f"{path}:{rows.line_num}: expected {len(where)} columns")
            symbols = row[elements][2:-2].split("','")
            text = row[positions].replace("[", "").replace("]", "")
            if text.count(",") + 1 != 3 * len(symbols) or not NUMBERS.keys() >= set(symbols):
                raise InputError(f"{path}:{rows.line_num}: positions and elements do not match")
            table.add(int(row[index]), symbols, text, [row[column] for column in columns])
            if len(table.ids) % 1000 == 0:
                tick(len(table.ids))


def references(atoms: dict[str, list[float]] | None = None) -> dict[str, dict[int, float]]:
    """Energies of free atoms in the units of the targets: target -> atomic number -> value.

    ``atoms``: element -> (zpve, U0, U, H, G, Cv) as in ``atomref.txt``; default: as published.
    """
    published = ATOMS
    if atoms:
        columns = zip(*(atoms[symbol] for symbol in NUMBERS), strict=True)
        published = dict(zip(ATOMS, columns, strict=True))
    references = {}
    for name, values in published.items():
        size = units.factor(COLUMNS[name][1], TARGETS[name].unit)
        pairs = zip(NUMBERS.values(), values, strict=True)
        references[name] = {number: size * value for number, value in pairs}
    return references


def partition(
    size: int, text: str | None, file: Path | None, seed: int
) -> dict[str, splits.Partition]:
    """The partition that was asked for, under its name.

    ``text`` is ``paper`` (as is None), ``torchmd``, or sizes; ``file`` a split file in their place.

    Raises:
        UsageError, InputError: as :func:`splits.wanted`; ``torchmd`` of a part of QM9.
    """
    if file is None and text in (None, "paper"):
        return {"paper": paper_split(size, seed)}
    if text != "torchmd":
        counts = splits.wanted(text, file)
        assert counts is not None  # one of the two is there
        return {"default": splits.shuffled(size, counts, seed)}
    if size != SIZE or file is not None:
        raise UsageError("--partition torchmd divides all of QM9, and stands alone")
    return {"torchmd": splits.torchmd(size, TORCHMD, 1)}


def paper_split(size: int, seed: int) -> dict[str, np.ndarray]:
    """100,000 / 17,748 / 13,083 of a permutation with ``seed``; the same shares of a part."""
    if size == SIZE:
        return splits.shuffled(size, PAPER, seed)
    train, valid = (size * count // SIZE for count in PAPER[:2])
    return splits.shuffled(size, (max(1, train), valid), seed)
