"""How often a model doubts: on unseen molecules of its own kind, and on 400 built outside of it.

    neupol data qm9 -o qm9.h5
    OMP_NUM_THREADS=1 python benchmarks/outside.py qm9.h5 [-m qm9] [--answers 1000]

Every kind of outsider is made forty times from unseen molecules, by one change each. Printed are
the shares that get a doubt or are refused; of unseen molecules as they are, by structure alone (all
of them) and with the answers looked at too (--answers of them).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np
from ase import Atoms

from neupol_cli import registry
from neupol_cli.domain.bonds import Bonds
from neupol_cli.domain.domain import Domain
from neupol_cli.errors import InputError
from neupol_cli.io import hdf5

EACH = 40  # of every kind
Change = Callable[[Atoms, np.random.Generator], Atoms | None]


def of_element(atoms: Atoms, number: int) -> np.ndarray:
    return np.flatnonzero(atoms.numbers == number)


def ion(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """A charge that is stated."""
    atoms.info["charge"] = int(rng.choice([-1, 1]))
    return atoms


def radical(atoms: Atoms, rng: np.random.Generator) -> Atoms | None:
    """A hydrogen less; also what a deprotonated anion looks like whose charge nobody states."""
    return without(atoms, rng, 1)


def diradical(atoms: Atoms, rng: np.random.Generator) -> Atoms | None:
    """Two hydrogens less, of different atoms."""
    return without(atoms, rng, 2)


def without(atoms: Atoms, rng: np.random.Generator, count: int) -> Atoms | None:
    hydrogens = of_element(atoms, 1)
    if len(hydrogens) < count:
        return None
    chosen = rng.choice(hydrogens, count, replace=False)
    near = Bonds.of(atoms).neighbours
    if count == 2 and near[chosen[0]] == near[chosen[1]]:
        return None
    del atoms[chosen.tolist()]
    return atoms


def protonated(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """A hydrogen more, where there is room for it, charge not stated."""
    centre = int(rng.integers(len(atoms)))
    while True:
        away = rng.normal(size=3)
        place = atoms.positions[centre] + 1.05 * away / np.linalg.norm(away)
        if np.linalg.norm(atoms.positions - place, axis=1).min() > 0.95:
            return atoms + Atoms("H", [place])


def sides(atoms: Atoms, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    """A bond that holds two parts together: its direction, and the atoms on its far side."""
    bonds = Bonds.of(atoms)
    heavy = bonds.bonded & (bonds.numbers[bonds.first] > 1) & (bonds.numbers[bonds.second] > 1)
    for k in rng.permutation(np.flatnonzero(heavy)):
        i, j = int(bonds.first[k]), int(bonds.second[k])
        side, front = {j}, [j]
        while front:
            fresh = set(bonds.neighbours[front.pop()]) - side - {i}
            side |= fresh
            front += fresh
        if not any(i in bonds.neighbours[m] for m in side - {j}):
            vector = atoms.positions[j] - atoms.positions[i]
            return vector / np.linalg.norm(vector), np.array(sorted(side))
    return None


def pulled(low: float, high: float) -> Change:
    """A bond longer by a length between the two, or shorter."""

    def change(atoms: Atoms, rng: np.random.Generator) -> Atoms | None:
        bond = sides(atoms, rng)
        if bond is None:
            return None
        direction, side = bond
        atoms.positions[side] += rng.uniform(low, high) * direction
        return atoms

    return change


def displaced(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """One atom in a wrong place, 0.5 to 0.9 Angstrom off."""
    away = rng.normal(size=3)
    atoms.positions[rng.integers(len(atoms))] += rng.uniform(0.5, 0.9) * away / np.linalg.norm(away)
    return atoms


def dimer(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Two of a molecule, 3 to 8 Angstrom between them."""
    other = atoms.copy()
    gap = np.ptp(atoms.positions[:, 0]) + rng.uniform(3, 8)
    other.positions[:, 0] += gap
    return atoms + other


def foreign(atoms: Atoms, rng: np.random.Generator) -> Atoms | None:
    """Sulfur for oxygen, chlorine for fluorine."""
    places = [*of_element(atoms, 8), *of_element(atoms, 9)]
    if not places:
        return None
    place = int(rng.choice(places))
    atoms.numbers[place] = {8: 16, 9: 17}[int(atoms.numbers[place])]
    return atoms


def large(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """An alkane of 10 to 24 carbons, all trans."""
    from neupol_cli.runtime.cases import alkane

    return alkane(int(rng.integers(10, 25)))


def opened(atoms: Atoms, rng: np.random.Generator) -> Atoms | None:
    """A ring with a bond broken: one of its atoms, and what hangs on it, 0.6 Angstrom outwards."""
    bonds = Bonds.of(atoms)
    heavy = np.flatnonzero(atoms.numbers > 1)
    for atom in rng.permutation(heavy):
        near = [n for n in bonds.neighbours[atom] if atoms.numbers[n] > 1]
        if len(near) == 2 and sides_meet(bonds, int(atom), near):
            vector = atoms.positions[atom] - atoms.positions[near[0]]
            hydrogens = [n for n in bonds.neighbours[atom] if atoms.numbers[n] == 1]
            shift = 0.6 * vector / np.linalg.norm(vector)
            atoms.positions[[atom, *hydrogens]] += shift
            return atoms
    return None


def sides_meet(bonds: Bonds, atom: int, near: list[int]) -> bool:
    """Whether two neighbours of an atom are connected without it."""
    seen, front = {near[0]}, [near[0]]
    while front:
        fresh = set(bonds.neighbours[front.pop()]) - seen - {atom}
        seen |= fresh
        front += fresh
    return near[1] in seen


KINDS: dict[str, Change] = {
    "ions, charge stated": ion,
    "a hydrogen less": radical,
    "two hydrogens less": diradical,
    "a hydrogen more": protonated,
    "a bond 0.15 to 0.6 Angstrom longer": pulled(0.15, 0.6),
    "a bond 0.12 to 0.4 Angstrom shorter": pulled(-0.4, -0.12),
    "an atom misplaced": displaced,
    "two, 3 to 8 Angstrom apart": dimer,
    "sulfur, chlorine": foreign,
    "30 atoms and more": large,
    "a ring opened": opened,
}


def outsiders(molecules: list[Atoms], change: Change, rng: np.random.Generator) -> Iterator[Atoms]:
    """`EACH` of a kind."""
    made = 0
    while made < EACH:
        atoms = change(molecules[int(rng.integers(len(molecules)))].copy(), rng)
        if atoms is not None:
            made += 1
            yield atoms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("-m", "--model", default="qm9")
    parser.add_argument("--answers", type=int, default=1000)
    options = parser.parse_args()
    model = registry.load_property(options.model)
    domain = Domain.of(model.header)
    assert domain is not None
    dataset = hdf5.read(options.dataset)
    rng = np.random.default_rng(0)
    molecules = [dataset.atoms(int(k)) for k in dataset.splits["paper"]["test"]]

    def doubted(atoms: Atoms) -> bool:
        """Refused, or with a doubt about the structure."""
        try:
            model.check([atoms])
            domain.check(atoms, "")
        except InputError:
            return True
        return bool(domain.doubts(atoms, Bonds.of(atoms), {}))

    share = np.mean([doubted(atoms) for atoms in molecules])
    print(
        f"{len(molecules)} unseen molecules, by structure: {100 * share:.2f} % doubted", flush=True
    )
    chosen = [molecules[k] for k in rng.permutation(len(molecules))[: options.answers]]
    answers = model.predict(chosen)
    rows = [
        {name: float(column[k]) for name, column in answers.items()} for k in range(len(chosen))
    ]
    share = np.mean(
        [bool(domain.doubts(a, Bonds.of(a), r)) for a, r in zip(chosen, rows, strict=True)]
    )
    print(f"{len(chosen)} of them, with answers: {100 * share:.2f} % doubted", flush=True)
    total = []
    for kind, change in KINDS.items():
        shares = [doubted(atoms) for atoms in outsiders(molecules, change, rng)]
        total += shares
        print(f"{kind}: {sum(shares)} of {len(shares)}", flush=True)
    print(f"outside: {sum(total)} of {len(total)}, {100 * np.mean(total):.1f} %")


if __name__ == "__main__":
    main()
