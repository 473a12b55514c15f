"""The irreps of ChargE3Net's features and what couples them: names and multiplicities, no tensors.

An irrep is (l, p) with parity p = -1 (odd) or 1 (even); they come in the order 0o, 0e, 1o, 1e, ...
of the published code. A path couples a sender's irrep (l1, p1) with Y_l2, whose parity is (-1)^l2,
to an output irrep (l3, p1 (-1)^l2). What never reaches the density has no place here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from neupol_cli.models.charge3net.config import ChargE3NetConfig

Irrep = tuple[int, int]
Multiplicities = dict[Irrep, int]

EVEN_SCALAR: Irrep = (0, 1)
ODD_SCALAR: Irrep = (0, -1)
VECTOR: Irrep = (1, -1)


def natural(irrep: Irrep) -> bool:
    """Whether an irrep has the parity of its own spherical harmonic, (-1)^l."""
    return irrep[1] == (-1) ** irrep[0]


def hidden_irreps(mul: int, lmax: int) -> Multiplicities:
    """The published irreps of total size about ``mul``: both parities of l = 0..lmax."""
    return {
        (degree, parity): round(mul / (lmax + 1) / (2 * degree + 1))
        for degree in range(lmax + 1)
        for parity in (-1, 1)
    }


@dataclass(frozen=True)
class Path:
    """One coupling: sender irrep x Y_degree -> irrep."""

    sender: Irrep
    degree: int
    irrep: Irrep


def all_paths(senders: Iterable[Irrep], lmax: int, wanted: Iterable[Irrep]) -> list[Path]:
    """Every coupling to a wanted irrep or to 0e, in the published order."""
    wanted = {*wanted, EVEN_SCALAR}
    return [
        Path((l1, p1), l2, (l3, p1 * (-1) ** l2))
        for l1, p1 in senders
        for l2 in range(lmax + 1)
        for l3 in range(abs(l1 - l2), l1 + l2 + 1)
        if (l3, p1 * (-1) ** l2) in wanted
    ]


def reachable(senders: Iterable[Irrep], lmax: int, hidden: Multiplicities) -> Multiplicities:
    """Those of the hidden irreps that some path leads to (and that have channels)."""
    ends = {path.irrep for path in all_paths(senders, lmax, hidden)}
    return {irrep: mul for irrep, mul in hidden.items() if irrep in ends and mul > 0}


def matrix_shapes(
    ins: Mapping[Irrep, int], outs: Mapping[Irrep, int]
) -> dict[Irrep, tuple[int, int]]:
    """(in, out) of each irrep that an equivariant linear map takes along."""
    return {k: (ins[k], outs[k]) for k in ins if k in outs}


def gate_inputs(outs: Multiplicities) -> Multiplicities:
    """What goes into a gate: 0e carries its scalars, then a gate for every channel with l > 0."""
    gates = sum(mul for (degree, _), mul in outs.items() if degree > 0)
    return {k: mul + gates * (k == EVEN_SCALAR) for k, mul in outs.items()}


@dataclass(frozen=True)
class AtomIrreps:
    """What goes in and out of one layer among atoms.

    Attributes:
        ins: of the senders, and of the receivers.
        inner: what lin1 makes of the senders.
        outs: those of the published output that somebody reads.
        lmax: of the harmonics.
    """

    ins: Multiplicities
    inner: Multiplicities
    outs: Multiplicities
    lmax: int

    @property
    def paths(self) -> list[Path]:
        """The couplings of inner and harmonics, in the published order."""
        return all_paths(self.inner, self.lmax, self.outs)

    @property
    def summed(self) -> Multiplicities:
        """How many channels the paths bring to each output."""
        paths = self.paths
        return {k: sum(self.inner[p.sender] for p in paths if p.irrep == k) for k in self.outs}

    @property
    def gated(self) -> list[Irrep]:
        """The outputs that a gate multiplies."""
        return [k for k in self.outs if k[0] > 0]


@dataclass(frozen=True)
class ProbeIrreps:
    """What goes in and out of one layer of probes, reduced to scalars: see probe_stack.py.

    Attributes:
        read: those of the atoms' features that are summed onto a probe.
        before: the probe's scalars in; empty for the first layer, whose probes are zero.
        after: the probe's scalars out.
    """

    read: Multiplicities
    before: Multiplicities
    after: Multiplicities

    @property
    def even(self) -> int:
        """How many channels make 0e: natural irreps couple with their harmonic to a scalar."""
        return sum(mul for k, mul in self.read.items() if natural(k))

    @property
    def odd(self) -> int:
        """How many channels make 0o."""
        return sum(mul for k, mul in self.read.items() if not natural(k))

    @property
    def summed(self) -> Multiplicities:
        """How many channels the paths bring to each scalar."""
        odd = {ODD_SCALAR: self.odd} if ODD_SCALAR in self.after else {}
        return {EVEN_SCALAR: self.even} | odd


def atom_irreps(config: ChargE3NetConfig) -> list[Multiplicities]:
    """The irreps of the published atom features: the first messages', then after each layer."""
    hidden = hidden_irreps(config.mul, config.lmax)
    irreps: list[Multiplicities] = [{EVEN_SCALAR: config.embedding or config.point_types}]
    for _ in range(config.layers):
        irreps.append(reachable(irreps[-1], config.lmax, hidden))
    return irreps


def atom_layers(config: ChargE3NetConfig) -> list[AtomIrreps]:
    """The layers among atoms; the last keeps only what probes read."""
    layers: list[AtomIrreps] = []
    for n, (inner, outs) in enumerate(pairwise(atom_irreps(config))):
        everything = config.pseudoscalar_spin or n < config.layers - 1
        read = {k: mul for k, mul in outs.items() if everything or natural(k)}
        ins = inner if n else {EVEN_SCALAR: config.point_types}
        layers.append(AtomIrreps(ins, inner, read, config.lmax))
    return layers


def probe_layers(config: ChargE3NetConfig) -> list[ProbeIrreps]:
    """The layers of the probes.

    Which irreps a published probe layer has depends on those of the probe before it, so all of
    them are followed here, by name only.
    """
    hidden = hidden_irreps(config.mul, config.lmax)
    wanted = (EVEN_SCALAR, ODD_SCALAR) if config.pseudoscalar_spin else (EVEN_SCALAR,)
    published: Multiplicities = {EVEN_SCALAR: 1}
    layers: list[ProbeIrreps] = []
    for atoms in (layer.outs for layer in atom_layers(config)):
        published = reachable(published, config.lmax, hidden)
        after = {k: published[k] for k in wanted if k in published}
        if all(natural(k) for k in atoms):  # no atom sends what makes a pseudoscalar
            after.pop(ODD_SCALAR, None)
        read = {k: mul for k, mul in atoms.items() if natural(k) or ODD_SCALAR in after}
        layers.append(ProbeIrreps(read, layers[-1].after if layers else {}, after))
    return layers


def read_out(config: ChargE3NetConfig) -> Multiplicities:
    """The read-out's irreps: total; with spin 2x0e, or the published 1x0e + 1x0o."""
    if config.pseudoscalar_spin:
        return {ODD_SCALAR: 1, EVEN_SCALAR: 1}
    return {EVEN_SCALAR: 2 if config.spin else 1}
