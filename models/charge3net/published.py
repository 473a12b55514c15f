"""Published ChargE3Net weights under our names; what never reaches the density is left behind."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from neupol_cli.errors import CheckpointError
from neupol_cli.models.base import Arguments
from neupol_cli.models.charge3net.config import ChargE3NetConfig
from neupol_cli.models.charge3net.irreps import (
    EVEN_SCALAR,
    ODD_SCALAR,
    AtomIrreps,
    Multiplicities,
    Path,
    ProbeIrreps,
    all_paths,
    atom_irreps,
    atom_layers,
    gate_inputs,
    hidden_irreps,
    matrix_shapes,
    natural,
    probe_layers,
    reachable,
    read_out,
)

SPECIES = tuple(range(119))  # the one-hot is indexed by atomic number, 0 among them
# Weights that no other network has.
MARKS = {"probe_model.readout.weight", "atom_model.convolutions.0.fc.layer0.weight"}

Shapes = dict[tuple[int, int], tuple[int, int]]  # (in, out) of each irrep


def recognised(checkpoint: object) -> tuple[dict[str, Tensor], Arguments] | None:
    """The weights of a published ChargE3Net checkpoint and its arguments, or None for another.

    The arguments are read off the weights, see :func:`config_of`; the files do not hold them.
    """
    weights = weights_of(checkpoint)
    return (weights, {}) if weights.keys() >= MARKS else None


def weights_of(checkpoint: object) -> dict[str, Tensor]:
    """The plain state_dict of a published checkpoint; of anything else, nothing.

    The authors' own trainer keeps it under ``model``, Lightning under ``state_dict`` with every
    name behind ``network.``; a bare state_dict is taken as it is.
    """
    if not isinstance(checkpoint, Mapping):
        return {}
    inner = checkpoint.get("model", checkpoint.get("state_dict", checkpoint))
    if not isinstance(inner, Mapping):
        return {}
    return {str(key).removeprefix("network."): value for key, value in inner.items()}


def config_of(tensors: Mapping[str, Tensor], given: Arguments) -> ChargE3NetConfig:
    """Our ChargE3NetConfig from the published arguments; those not given are read off the shapes.

    The cutoff and num_neighbors leave no trace in the weights: 4 Angstrom and 20 if not given.

    Raises:
        CheckpointError: another radial basis.
    """
    basis, _ = tensors["atom_model.convolutions.0.fc.layer0.weight"].shape
    paths = tensors["atom_model.convolutions.0.fc.layer1.weight"].shape[1]
    lmax = int(given.get("lmax", paths // len(SPECIES) - 1))
    spin = bool(given.get("spin", tensors["probe_model.readout.output_mask"].numel() == 2))
    scalars = tensors["probe_model.readout.weight"].numel() // (2 if spin else 1)
    layers = sum(key.startswith("probe_model.") and key.endswith(".sc.weight") for key in tensors)
    if given.get("basis", "gaussian") != "gaussian":
        raise CheckpointError(
            f"the radial basis {given['basis']!r} is not known here, only gaussian"
        )
    last = tensors[f"probe_model.convolutions.{layers - 1}.lin1.weight"].numel()
    return ChargE3NetConfig(
        species=SPECIES,
        mul=int(given.get("mul") or _mul_of(scalars, lmax, layers, last)),
        lmax=lmax,
        layers=int(given.get("num_interactions", layers)),
        cutoff=float(given.get("cutoff", 4.0)),
        basis_size=int(given.get("num_basis", basis)),
        num_neighbors=float(given.get("num_neighbors", 20)),
        spin=spin,
        pseudoscalar_spin=spin,
    )


def _mul_of(scalars: int, lmax: int, layers: int, last: int) -> int:
    """The mul whose irreps have these scalars, and last atom features that lin1 mixes.

    Several do where rounding hides the difference; their networks are the same.
    """
    middle = scalars * (lmax + 1)
    for mul in sorted(range(middle - lmax, middle + lmax + 1), key=lambda mul: abs(mul - middle)):
        config = ChargE3NetConfig(species=SPECIES, mul=max(mul, 1), lmax=lmax, layers=layers)
        irreps = atom_irreps(config)[-1]
        if irreps[EVEN_SCALAR] == scalars and sum(m * m for m in irreps.values()) == last:
            return mul
    return middle


def published_charge3net(
    weights: object, given: Arguments
) -> tuple[ChargE3NetConfig, dict[str, Tensor]]:
    """A Config and our state_dict from published weights.

    Args:
        weights: a checkpoint in any published form, see :func:`weights_of`.
        given: the published arguments (mul, lmax, num_interactions, cutoff, ...).

    Raises:
        KeyError: a weight is missing.
        CheckpointError: a weight has another size than these arguments give it.
    """
    tensors = weights_of(weights)
    config = config_of(tensors, given)
    state = {
        "basis.mean": tensors["probe_model.basis.mean"],
        "basis.inv_std": tensors["probe_model.basis.inv_std"],
    }
    irreps = atom_irreps(config)
    for n, layer in enumerate(atom_layers(config)):
        source = Source(tensors, f"atom_model.convolutions.{n}")
        state |= prefixed(f"atoms.layers.{n}", _atom_layer(source, layer, irreps[n + 1]))
    probes = _published_probes(config)
    for n, reduced in enumerate(probe_layers(config)):
        source = Source(tensors, f"probe_model.convolutions.{n}")
        layer_state = _probe_layer(source, reduced, irreps[n + 1], probes[n : n + 2], config.lmax)
        state |= prefixed(f"probes.layers.{n}", layer_state)
    state["readout.weight"] = _readout(tensors, config, probes[-1])
    _log_dropped(tensors, state)
    return config, state


def _published_probes(config: ChargE3NetConfig) -> list[Multiplicities]:
    """The published probes' irreps: one zero, then after each layer."""
    hidden = hidden_irreps(config.mul, config.lmax)
    irreps: list[Multiplicities] = [{EVEN_SCALAR: 1}]
    for _ in range(config.layers):
        irreps.append(reachable(irreps[-1], config.lmax, hidden))
    return irreps


def _readout(
    tensors: Mapping[str, Tensor], config: ChargE3NetConfig, probes: Multiplicities
) -> Tensor:
    source = Source(tensors, "probe_model.readout")
    last = {k: mul for k, mul in probes.items() if k[0] == 0 and (config.spin or natural(k))}
    ours = matrix_shapes(probe_layers(config)[-1].after, read_out(config))
    return source.linear("weight", ours, last, dict.fromkeys(last, 1))


class Source:
    """The tensors of one published module."""

    def __init__(self, tensors: Mapping[str, Tensor], place: str) -> None:
        self.tensors, self.place = tensors, place

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[f"{self.place}.{key}"]

    def blocks(
        self, key: str, ins: Multiplicities, outs: Multiplicities
    ) -> dict[tuple[int, int], Tensor]:
        """A flat weight as one (in, out) matrix an irrep."""
        flat = self[key].reshape(-1)
        shapes = matrix_shapes(ins, outs)
        sizes = [a * b for a, b in shapes.values()]
        if sum(sizes) != flat.numel():
            raise CheckpointError(
                f"{self.place}.{key} has {flat.numel()} numbers, its arguments give {sum(sizes)}"
            )
        pairs = zip(shapes.items(), flat.split(sizes), strict=True)
        return {irrep: block.view(shape) for (irrep, shape), block in pairs}

    def linear(
        self,
        key: str,
        ours: Shapes,
        ins: Multiplicities,
        outs: Multiplicities,
        columns: Tensor | None = None,
    ) -> Tensor:
        """Those blocks that our map has, flat again.

        Args:
            key: of the weight.
            ours: our map's.
            ins, outs: the published map's irreps.
            columns: which 0e outputs our map has; None for the first ones: the scalars, which
                come before the gates.
        """
        blocks = self.blocks(key, ins, outs)
        if columns is not None:
            blocks[EVEN_SCALAR] = blocks[EVEN_SCALAR][:, columns]
        flat = [blocks[k][:, :out].reshape(-1) for k, (_, out) in ours.items()]
        return torch.cat([torch.ones(0).to(self[key]), *flat])

    def radial(
        self, paths: list[Path], ins: Multiplicities, wanted: list[Path]
    ) -> dict[str, Tensor]:
        """The radial network with the columns of the wanted paths, in our order."""
        second = self["fc.layer1.weight"]
        sizes = [ins[path.sender] for path in paths]
        if sum(sizes) != second.shape[1]:
            raise CheckpointError(
                f"{self.place}.fc.layer1.weight has {second.shape[1]} columns, not {sum(sizes)}"
            )
        columns = dict(zip(paths, second.split(sizes, 1), strict=True))
        return {
            "radial.first": self["fc.layer0.weight"],
            "radial.second": torch.cat([columns[path] for path in wanted], 1),
        }


def _atom_layer(source: Source, ours: AtomIrreps, outs: Multiplicities) -> dict[str, Tensor]:
    """Our state of an atom layer whose published output has the irreps ``outs``."""
    ins = ours.inner
    paths = all_paths(ins, ours.lmax, outs)
    summed, gates, angle = _summed(paths, ins), gate_inputs(outs), {EVEN_SCALAR: 1}
    columns, inputs = _scalars_and_gates(outs, ours), gate_inputs(ours.outs)
    sc, lin2 = matrix_shapes(ours.ins, inputs), matrix_shapes(ours.summed, inputs)
    lin1, lin3 = matrix_shapes(ours.ins, ins), matrix_shapes(ours.summed, angle)
    return source.radial(paths, ins, ours.paths) | {
        "lin1.weight": source.linear("lin1.weight", lin1, ins, ins),
        "sc.weight": source.linear("sc.weight", sc, ins, gates, columns),
        "lin2.weight": source.linear("lin2.weight", lin2, summed, gates, columns),
        "lin3.weight": source.linear("lin3.weight", lin3, summed, angle),
    }


def _scalars_and_gates(outs: Multiplicities, ours: AtomIrreps) -> Tensor:
    """Which columns of the published 0e gate input are the scalars and the gates that we read."""
    columns = list(range(outs[EVEN_SCALAR]))
    start = len(columns)
    for irrep, mul in outs.items():
        if irrep[0] > 0:
            columns += range(start, start + mul) if irrep in ours.outs else ()
            start += mul
    return torch.tensor(columns)


def _probe_layer(
    source: Source,
    ours: ProbeIrreps,
    atoms: Multiplicities,
    probes: list[Multiplicities],
    lmax: int,
) -> dict[str, Tensor]:
    """Our state of a probe layer whose published irreps before and behind are ``probes``."""
    before, after = probes
    paths = all_paths(atoms, lmax, after)
    summed, gates, angle = _summed(paths, atoms), gate_inputs(after), {EVEN_SCALAR: 1}
    wanted = [Path(k, k[0], EVEN_SCALAR if natural(k) else ODD_SCALAR) for k in ours.read]
    sc, lin2 = matrix_shapes(ours.before, ours.after), matrix_shapes(ours.summed, ours.after)
    lin1, lin3 = matrix_shapes(ours.read, ours.read), {EVEN_SCALAR: (ours.even, 1)}
    return source.radial(paths, atoms, wanted) | {
        "lin1.weight": source.linear("lin1.weight", lin1, atoms, atoms),
        "sc.weight": source.linear("sc.weight", sc, before, gates),
        "lin2.weight": source.linear("lin2.weight", lin2, summed, gates),
        "lin3.weight": source.linear("lin3.weight", lin3, summed, angle),
    }


def _summed(paths: list[Path], ins: Multiplicities) -> Multiplicities:
    """How many channels the paths bring to each irrep, irreps in the published order."""
    channels: Multiplicities = {}
    for path in sorted(paths, key=lambda path: path.irrep):
        channels[path.irrep] = channels.get(path.irrep, 0) + ins[path.sender]
    return channels


def prefixed(place: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with a place before their names."""
    return {f"{place}.{key}": value for key, value in tensors.items()}


def _log_dropped(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Says how many published numbers were left behind."""
    published = sum(value.numel() for key, value in tensors.items() if key.endswith(".weight"))
    taken = sum(value.numel() for key, value in state.items() if not key.startswith("basis."))
    logging.getLogger("neupol").info(
        "ChargE3Net: %d of %d published weights never reach the density and were dropped",
        published - taken,
        published,
    )
