"""The targets that networks learn, one record each, read wherever a target's name matters.

A new one is a record here; a new way of reading it out, a head of the network that has it.
(In models/ because networks read it too; neupol_cli/targets.py is the same table for the rest.)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from neupol_cli.errors import UsageError


@dataclass(frozen=True)
class Target:
    """What a network can learn and answer.

    Attributes:
        name: the label's, in files and on the command line.
        unit: the one that it has in neupol's datasets.
        per: ``structure`` or ``atom``.
        shape: of one value, () for a number, (3,) for a vector.
        extensive: whether two distant copies have twice as much.
        derivative_of: the target whose negative gradient it is.
        readout: how a network with several heads reads it out, one of ``READOUTS``.
        length: the target that is a vector's length, from which the vector can be learnt.
        positive: whether it cannot be negative.
        parts: other targets and their factors, whose sum it is, or is but for a little.
        whole: whether it is nothing besides its parts.
    """

    name: str
    unit: str
    per: str = "structure"
    shape: tuple[int, ...] = ()
    extensive: bool = False
    derivative_of: str = ""
    readout: str = "scalar"
    length: str = ""
    positive: bool = False
    parts: tuple[tuple[str, float], ...] = ()
    whole: bool = False


@dataclass(frozen=True)
class Readout:
    """How a network's last state becomes a target.

    Attributes:
        size: how many numbers a structure has.
        offset: whether a mean and elements' references may be added to what the network says.
        positive: whether it is never negative, whatever the weights.
    """

    size: int
    offset: bool
    positive: bool = False


READOUTS = {
    "scalar": Readout(1, offset=True),
    "level": Readout(1, offset=True),  # of a structure's atoms, not their sum
    "vector": Readout(3, offset=False),
    "dipole": Readout(1, offset=False, positive=True),  # a vector's length
    "extent": Readout(1, offset=False),
}

TARGETS = {
    target.name: target
    for target in (
        Target("energy", "eV", extensive=True),
        Target("forces", "eV/Angstrom", per="atom", shape=(3,), derivative_of="energy"),
        Target("stress", "eV/Angstrom^3", shape=(3, 3), derivative_of="energy"),
        Target("dipole", "D", shape=(3,), readout="vector", length="mu"),
        # QM9 (Ramakrishnan et al., Sci. Data 1, 140022, 2014, table 3), with Hartree turned into eV
        Target("mu", "D", readout="dipole", positive=True),
        Target("alpha", "bohr^3", extensive=True, positive=True),
        Target("homo", "eV", readout="level"),
        Target("lumo", "eV", readout="level"),
        Target(
            "gap",
            "eV",
            positive=True,
            readout="level",
            parts=(("lumo", 1.0), ("homo", -1.0)),
            whole=True,
        ),
        Target("r2", "bohr^2", readout="extent", positive=True),
        Target("zpve", "eV", extensive=True, positive=True),
        Target("U0", "eV", extensive=True),
        Target("U", "eV", extensive=True, parts=(("U0", 1.0),)),
        Target("H", "eV", extensive=True, parts=(("U0", 1.0),)),
        Target("G", "eV", extensive=True, parts=(("U0", 1.0),)),
        Target("Cv", "cal/mol/K", extensive=True, positive=True),
    )
}
FORCES = "forces"
# Targets whose negative gradient is a force, in the order of preference.
ENERGIES = ("energy", "U0")
QM9 = ("mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv")


def target(name: str) -> Target:
    """The record of a target; one that nobody has described is a number a structure."""
    return TARGETS[name] if name in TARGETS else Target(name, "")


def readout_of_number(name: str, known: Collection[str]) -> str:
    """How a network with these readouts reads out a target that is one number a structure."""
    record = target(name)
    return record.readout if not record.shape and record.readout in known else "scalar"


def readouts_of(
    targets: Sequence[str], outputs: Sequence[str], known: Collection[str]
) -> tuple[str, ...]:
    """How each target is read out.

    Args:
        targets: their names.
        outputs: one of ``READOUTS`` for each of them; none at all where every target is a number.
        known: those that the network has.

    Raises:
        UsageError: another number of them, or one that the network does not have.
    """
    if not outputs:
        return tuple(readout_of_number(name, known) for name in targets)
    if len(outputs) != len(targets) or not set(outputs) <= set(known):
        raise UsageError(
            f"outputs takes one of {', '.join(known)} for each of the targets {', '.join(targets)}"
        )
    return tuple(outputs)
