"""The total charge and the multiplicity that a structure states, if it states them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ase import Atoms

from neupol_cli.errors import InputError

STATED = ("charge", "multiplicity")  # in a structure's info, and labels of a dataset
WHOLE = 0.05  # atoms' charges are rounded in files; their sum is taken for whole if it is this near


def total_charge(atoms: Atoms, label: str = "") -> int | None:
    """``charge`` of the comment line, or else the sum of initial charges; None if neither is there.

    Raises:
        InputError: ``charge`` is not a whole number.
    """
    if "charge" in atoms.info:
        return _whole(atoms.info["charge"], "charge", label)
    if atoms.has("initial_charges"):
        total = float(atoms.get_initial_charges().sum())
        if abs(total - round(total)) <= WHOLE:
            return round(total)
    return None


def multiplicity(atoms: Atoms, label: str = "") -> int | None:
    """2S + 1: ``multiplicity`` or ``spin`` of the comment line, or else from a molecule's initial
    magnetic moments (a crystal's are those of a cell of any size); None if none is there.

    Some programs write unpaired electrons as ``spin``, others 2S + 1: an even number of electrons
    has an odd multiplicity, so that only one of the two can be meant.

    Raises:
        InputError: it is not a whole number, or not one of a molecule.
    """
    if "multiplicity" in atoms.info:
        return _positive(_whole(atoms.info["multiplicity"], "multiplicity", label), label)
    if "spin" in atoms.info:
        spin = abs(_whole(atoms.info["spin"], "spin", label))
        odd = electrons(atoms, total_charge(atoms, label)) % 2
        return _positive(spin + 1 if spin % 2 == odd else spin, label)
    if atoms.has("initial_magmoms") and not atoms.pbc.any():
        total = float(abs(atoms.get_initial_magnetic_moments().sum()))
        if abs(total - round(total)) <= WHOLE:
            return round(total) + 1
    return None


def _positive(value: int, label: str) -> int:
    if value < 1:
        raise InputError(f"{label}: multiplicity {value} is not positive")
    return value


def state(atoms: Atoms) -> tuple[int, int]:
    """Charge and multiplicity: what is stated, else none and the lowest one."""
    charge = total_charge(atoms) or 0
    return charge, multiplicity(atoms) or lowest(electrons(atoms, charge))


def lowest(electrons: int) -> int:
    """The lowest multiplicity of a number of electrons."""
    return 1 + electrons % 2


def charged(
    structures: Iterable[tuple[str, Atoms]], charge: int | None
) -> Iterator[tuple[str, Atoms]]:
    """Labelled structures, all with that charge if there is one."""
    for label, atoms in structures:
        if charge is not None:
            atoms.info["charge"] = charge
        yield label, atoms


def electrons(atoms: Atoms, charge: int | None) -> int:
    """All of them, core electrons included."""
    return int(atoms.numbers.sum()) - (charge or 0)


def _whole(value: object, name: str, label: str) -> int:
    try:
        number = float(str(value))
    except ValueError:
        number = 0.5
    if number != round(number):
        raise InputError(f"{label}: {name}={value} is not a whole number")
    return int(number)
