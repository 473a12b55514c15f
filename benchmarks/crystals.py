"""Crystals that densities are learnt from: prototypes, and what chemistry puts in their places.

    python benchmarks/crystals.py made prototypes.extxyz --count 500 -o crystals.extxyz
    neupol data dft crystals.extxyz --engine cp2k --no-free-atoms --limit-minutes 3 -o all.h5
    python benchmarks/crystals.py parted all.h5 crystals.extxyz -o rho.h5
    python benchmarks/crystals.py errors rho.h5 -m crystal

``made`` writes the prototypes, those that cost CP2K least first (valence electrons squared over
the volume), and as many copies of them as make up the count: every element may be replaced by one
of its column, with a volume that goes as the cubes of the covalent radii; cells are strained by up
to 3 percent, atoms displaced by 0.05 Angstrom a coordinate. ``parted`` puts a prototype with all of
its copies on one side of the split; with ``--molecules`` some molecules' densities by the same
pseudopotentials are learnt from, too, and none of them is tested. ``errors`` tells the errors on
the test part, by the class of the material and by how many training structures have its rarest
element.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii

from neupol_cli.charges import free_atoms, pieces
from neupol_cli.datasets.cp2k import CP2K
from neupol_cli.datasets.cp2k_text import Settings
from neupol_cli.density import measures
from neupol_cli.density.loading import ModelChoice
from neupol_cli.density.measures import mean_absolute_error
from neupol_cli.density.on_grid import predict
from neupol_cli.errors import InputError
from neupol_cli.io import hdf5
from neupol_cli.io.density_writer import DensityWriter
from neupol_cli.io.volumetric import Volume
from neupol_cli.io.volumetric.h5 import volume_of

COLUMNS = [
    "Li Na K Cs", "Be Mg Ca Sr Ba Zn Cd Hg", "B Al Ga In Tl", "C Si Ge Sn Pb", "N P As Sb Bi",
    "O S Se Te", "F Cl Br I", "Cu Ag Au", "Ni Pd Pt", "Ti Zr Hf", "V Nb", "Cr Mo W",
]  # fmt: skip
METALLOIDS = {"B", "Si", "Ge", "As", "Sb", "Te"}
NONMETALS = {"H", "C", "N", "O", "P", "S", "Se", "F", "Cl", "Br", "I"}
HALOGENS, CHALCOGENS = {"F", "Cl", "Br", "I"}, {"O", "S", "Se", "Te"}
STRAIN, SIGMA = 0.03, 0.05  # of a cell's vectors; Angstrom a coordinate
COST = 20.0  # electrons squared a cubic Angstrom: a copy takes about a minute
MEMORY = 2_000_000_000  # bytes of a prediction
SEEN = ((3, "1 to 3"), (10, "4 to 10"), (10**9, "more than 10"))  # training structures, at most
SHARES = ("test", 0.13), ("valid", 0.2)  # of all structures
FEWEST = 3  # training structures that keep an element


def relatives(symbol: str) -> list[str]:
    """The element and those of its column."""
    return next((row.split() for row in COLUMNS if symbol in row.split()), [symbol])


def replaced(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """A copy with other elements of the same columns in a cell to measure."""
    old = atoms.get_chemical_symbols()
    to = {symbol: str(rng.choice(relatives(symbol))) for symbol in sorted(set(old))}
    new = [to[symbol] for symbol in old]
    volumes = [covalent_radii[[atomic_numbers[s] for s in names]] ** 3 for names in (old, new)]
    copy = atoms.copy()
    copy.symbols = new
    copy.set_cell(atoms.cell * (volumes[1].sum() / volumes[0].sum()) ** (1 / 3), scale_atoms=True)
    return copy


def shaken(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """A copy that is strained, its atoms displaced."""
    strain = rng.uniform(-STRAIN, STRAIN, (3, 3))
    copy = atoms.copy()
    copy.set_cell(atoms.cell @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    copy.positions += rng.normal(0, SIGMA, copy.positions.shape)
    return copy


def cost(atoms: Atoms, valence: dict[str, int]) -> float:
    """What CP2K's time goes with: valence electrons squared over the volume, 1/Angstrom^3."""
    electrons = sum(valence.get(symbol, 0) for symbol in atoms.get_chemical_symbols())
    return electrons**2 / atoms.get_volume()


def copies(prototypes: list[Atoms], valence: dict[str, int], seed: int) -> Iterator[Atoms]:
    """Copies without end, of one prototype after the other, those that are cheap enough."""
    rng = np.random.default_rng(seed)
    while True:
        for prototype in prototypes:
            copy = shaken(replaced(prototype, rng), rng)
            if cost(copy, valence) < COST:
                yield copy


def made(options: argparse.Namespace) -> None:
    valence = CP2K(Settings()).valence
    prototypes = sorted(ase.io.read(options.prototypes, ":"), key=lambda a: cost(a, valence))
    found, more = list(prototypes), copies(prototypes, valence, options.seed)
    while len(found) < options.count:
        found.append(next(more))
    ase.io.write(options.output, found, format="extxyz")
    print(f"{options.output}: {len(prototypes)} prototypes, {len(found) - len(prototypes)} copies")


def key(atoms: Atoms) -> bytes:
    """What a structure is found again by."""
    parts = (atoms.numbers, atoms.positions.round(6) + 0.0, atoms.cell.array.round(6) + 0.0)
    return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)


def divided(prototypes: list[str], elements: list[set[int]]) -> dict[str, np.ndarray]:
    """Indices of train, valid and test, each prototype in one of them.

    In the order of their digests prototypes go to the test part, then to the validation's, until
    these are as large as they should be; those of which an element would be in fewer than FEWEST
    training structures stay with these.
    """
    of = {name: [k for k, p in enumerate(prototypes) if p == name] for name in set(prototypes)}
    left = Counter(z for these in elements for z in these)
    parts: dict[str, list[int]] = {"train": [], "valid": [], "test": []}
    for name in sorted(of, key=lambda p: hashlib.sha256(p.encode()).hexdigest()):
        taken = Counter(z for k in of[name] for z in elements[k])
        spare = all(left[z] - n >= FEWEST for z, n in taken.items())
        part = next((p for p, share in SHARES if len(parts[p]) < share * len(prototypes)), "train")
        if spare and part != "train":
            left -= taken
        parts[part if spare else "train"] += of[name]
    return {part: np.array(sorted(chosen)) for part, chosen in parts.items()}


def parted(options: argparse.Namespace) -> None:
    names = {key(a): a.info["prototype"] for a in ase.io.read(options.structures, ":")}
    data = hdf5.read(options.dataset)
    crystals = [data.atoms(k) for k in range(data.size)]
    elements = [set(atoms.numbers.tolist()) for atoms in crystals]
    parts = divided([names[key(atoms)] for atoms in crystals], elements)
    volumes = [partial(volume_of, data, k) for k in range(data.size)]
    if options.molecules:
        more = training_part(hdf5.read(options.molecules), options.most)
        added = np.arange(len(more)) + data.size
        parts["train"], volumes = np.concatenate((parts["train"], added)), volumes + more
    with DensityWriter(options.output, data.source) as writer:
        for k, read in enumerate(volumes):
            volume = read()
            writer.add(volume.atoms, volume.values, volume.grid.origin, volume.grid.step, k)
        if not options.molecules:
            writer.label(data.targets, data.references)
        writer.split("default", parts)
    print(f"{options.output}: " + ", ".join(f"{k} {len(v)}" for k, v in parts.items()))


def training_part(data: hdf5.Dataset, most: int) -> list[Callable[[], Volume]]:
    """What reads the first densities of a dataset's training part."""
    chosen = next(iter(data.splits.values()))["train"][:most]
    return [partial(volume_of, data, int(k)) for k in chosen]


def kind(atoms: Atoms) -> str:
    """The class of a material by its elements."""
    symbols = set(atoms.get_chemical_symbols())
    if symbols <= NONMETALS:
        return "molecules and nonmetals"
    if symbols <= METALLOIDS | NONMETALS:
        return "covalent"
    if symbols & HALOGENS:
        return "halides"
    if symbols & CHALCOGENS:
        return "oxides and chalcogenides"
    return "metals" if not symbols & (NONMETALS | METALLOIDS) else "compounds of metals"


@dataclass(frozen=True)
class Tested:
    """A crystal of the test part: errors in percent, and how many training structures have its
    rarest element."""

    atoms: Atoms
    rarest: int
    error: float
    bound: float  # that nine in ten errors are below, as the model says
    free: float | None  # of free atoms beside each other, where the table has them

    def groups(self) -> list[str]:
        """What it counts for."""
        known = next(f"rarest element in {name}" for n, name in SEEN if self.rarest <= n)
        return [kind(self.atoms), known, "all"]


def tested(options: argparse.Namespace) -> Iterator[Tested]:
    data, asked = hdf5.read(options.dataset), ModelChoice(options.model)
    parts = next(iter(data.splits.values()))
    seen = Counter(z for k in parts["train"] for z in set(data.atoms(int(k)).numbers.tolist()))
    for k in parts["test"].tolist():
        truth = volume_of(data, k)
        model = asked.model_for(truth.atoms)
        found = predict(model, truth.atoms, truth.grid, MEMORY, lambda done: None)
        yield Tested(
            truth.atoms,
            min(seen[z] for z in truth.atoms.numbers),
            mean_absolute_error(found.volume, truth),
            model.uncertainty(found.features) or np.nan,
            of_free_atoms(truth, measures.valence_of(model.header)),
        )


def of_free_atoms(truth: Volume, valence: dict[int, float]) -> float | None:
    """The error of free atoms beside each other; None where the table has other ones."""
    try:
        free = free_atoms.of_model(truth.atoms.numbers.tolist(), valence)
    except InputError:
        return None
    values = pieces.promolecule(truth.atoms, truth.grid, free)
    return mean_absolute_error(replace(truth, values=values), truth)


def errors(options: argparse.Namespace) -> None:
    groups: dict[str, list[Tested]] = defaultdict(list)
    print("crystal       eps_mae   below  free atoms  training structures with its rarest element")
    for one in tested(options):
        for name in one.groups():
            groups[name].append(one)
        free = "-" if one.free is None else f"{one.free:.2f} %"
        formula = one.atoms.get_chemical_formula()
        print(f"{formula:12} {one.error:6.2f} % {one.bound:6.2f} % {free:>8}  {one.rarest}")
    print("\n| | crystals | eps_mae (%) | median | below the bound | free atoms (%) |")
    print("|---|---|---|---|---|---|")
    for name, some in sorted(groups.items()):
        off = np.array([one.error for one in some])
        held = sum(one.error < one.bound for one in some)
        free = np.mean([one.free for one in some if one.free is not None] or [np.nan])
        error = off.std(ddof=1) / len(off) ** 0.5 if len(off) > 1 else np.nan
        print(
            f"| {name} | {len(some)} | {off.mean():.2f} ± {error:.2f} | {np.median(off):.2f} "
            f"| {held} | {free:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("made")
    command.add_argument("prototypes", type=Path)
    command.add_argument("--count", type=int, default=500)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("-o", "--output", type=Path, default=Path("crystals.extxyz"))
    command.set_defaults(run=made)
    command = commands.add_parser("parted")
    command.add_argument("dataset", type=Path)
    command.add_argument("structures", type=Path)
    command.add_argument("--molecules", type=Path, help="densities of which to train, too")
    command.add_argument("--most", type=int, default=100, help="of these")
    command.add_argument("-o", "--output", type=Path, required=True)
    command.set_defaults(run=parted)
    command = commands.add_parser("errors")
    command.add_argument("dataset", type=Path)
    command.add_argument("-m", "--model", default="crystal")
    command.set_defaults(run=errors)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
