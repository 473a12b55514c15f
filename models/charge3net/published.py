"""Published ChargE3Net weights under our names; what never reaches the density is left behind."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from neupol_cli.errors import CheckpointError
from neupol_cli.models.charge3net.atom_stack import atom_irreps
from neupol_cli.models.charge3net.network import ChargE3Net, ChargE3NetConfig
from neupol_cli.models.charge3net.probe_stack import ProbeLayer
from neupol_cli.models.charge3net.tensor_product import (
    EVEN_SCALAR,
    ODD_SCALAR,
    AtomConvolution,
    BlockLinear,
    Irrep,
    Multiplicities,
    Path,
    all_paths,
    gate_inputs,
    hidden_irreps,
    natural,
    reachable,
)

SPECIES = tuple(range(119))  # the one-hot is indexed by atomic number, 0 among them


def weights_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The plain state_dict of a published checkpoint.

    The authors' own trainer keeps it under ``model``, Lightning under ``state_dict`` with every
    name behind ``network.``; a bare state_dict is taken as it is.
    """
    inner = checkpoint.get("model", checkpoint.get("state_dict", checkpoint))
    return {key.removeprefix("network."): value for key, value in inner.items()}


def recognise(checkpoint: Any) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The weights of a published ChargE3Net checkpoint and its arguments, or None for another.

    The arguments are read off the weights, see :func:`config_of`; the files do not hold them.
    """
    if not hasattr(checkpoint, "items"):
        return None
    inner = checkpoint.get("model", checkpoint.get("state_dict", checkpoint))
    if not hasattr(inner, "items"):
        return None
    weights = weights_of(checkpoint)
    ours = {"probe_model.readout.weight", "atom_model.convolutions.0.fc.layer0.weight"}
    return (weights, {}) if ours <= weights.keys() else None


def config_of(tensors: Mapping[str, Tensor], given: Mapping[str, Any]) -> ChargE3NetConfig:
    """Our ChargE3NetConfig from the published arguments; those not given are read off the shapes.

    The cutoff and num_neighbors leave no trace in the weights: 4 Angstrom and 20 if not given.
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


def published(
    tensors: Mapping[str, Tensor], given: Mapping[str, Any]
) -> tuple[ChargE3NetConfig, dict[str, Tensor]]:
    """A Config and our state_dict from published weights.

    Args:
        tensors: a checkpoint in any published form, see :func:`weights_of`.
        given: the published arguments (mul, lmax, num_interactions, cutoff, ...).

    Raises:
        KeyError: a weight is missing.
        CheckpointError: a weight has another size than these arguments give it.
    """
    tensors = weights_of(tensors)
    config = config_of(tensors, given)
    network = ChargE3Net(config)  # only its shapes are read
    state = {
        "basis.mean": tensors["probe_model.basis.mean"],
        "basis.inv_std": tensors["probe_model.basis.inv_std"],
    }
    irreps = atom_irreps(config)
    for n, layer in enumerate(network.atoms.layers):
        source = Source(tensors, f"atom_model.convolutions.{n}")
        state |= prefixed(
            f"atoms.layers.{n}",
            _atoms(source, cast(AtomConvolution, layer), irreps[n], irreps[n + 1], config),
        )
    receivers: Multiplicities = {EVEN_SCALAR: 1}
    for n, layer in enumerate(network.probes.layers):
        source = Source(tensors, f"probe_model.convolutions.{n}")
        after = reachable(receivers, config.lmax, hidden_irreps(config.mul, config.lmax))
        found = _probes(source, cast(ProbeLayer, layer), irreps[n + 1], receivers, after, config)
        state |= prefixed(f"probes.layers.{n}", found)
        receivers = after
    readout = Source(tensors, "probe_model.readout")
    last = {k: receivers[k] for k in receivers if k[0] == 0 and (config.spin or natural(k))}
    ones = dict.fromkeys(last, 1)
    state["readout.weight"] = readout.linear("weight", network.readout, last, ones)
    _tell(tensors, state)
    return config, state


class Source:
    """The tensors of one published module."""

    def __init__(self, tensors: Mapping[str, Tensor], place: str) -> None:
        self.tensors, self.place = tensors, place

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[f"{self.place}.{key}"]

    def blocks(self, key: str, ins: Multiplicities, outs: Multiplicities) -> dict[Irrep, Tensor]:
        """A flat weight as one (in, out) matrix an irrep."""
        flat = self[key].reshape(-1)
        shapes = {k: (ins[k], outs[k]) for k in ins if k in outs}
        sizes = [a * b for a, b in shapes.values()]
        if sum(sizes) != flat.numel():
            raise CheckpointError(
                f"{self.place}.{key} has {flat.numel()} numbers, its arguments give {sum(sizes)}"
            )
        parts = flat.split(sizes)
        return {k: p.view(shape) for (k, shape), p in zip(shapes.items(), parts, strict=True)}

    def linear(
        self,
        key: str,
        own: BlockLinear,
        ins: Multiplicities,
        outs: Multiplicities,
        *scalars: Tensor,
    ) -> Tensor:
        """Those blocks that our map has, flat again.

        Of the 0e outputs a map may read only some columns: the scalars, which come before the
        gates, or those that ``scalars`` names.
        """
        blocks = self.blocks(key, ins, outs)
        for columns in scalars:
            blocks[EVEN_SCALAR] = blocks[EVEN_SCALAR][:, columns]
        kept = [blocks[k][:, : shape[1]] for k, shape in own.shapes.items()]
        return torch.cat([torch.ones(0).to(self[key]), *(block.reshape(-1) for block in kept)])

    def radial(self, paths: list[Path], ins: Multiplicities, kept: list[Path]) -> dict[str, Tensor]:
        """The radial network with the columns of the kept paths, in our order."""
        second = self["fc.layer1.weight"]
        sizes = [ins[path.sender] for path in paths]
        if sum(sizes) != second.shape[1]:
            raise CheckpointError(
                f"{self.place}.fc.layer1.weight has {second.shape[1]} columns, not {sum(sizes)}"
            )
        columns = dict(zip(paths, second.split(sizes, 1), strict=True))
        return {
            "radial.first": self["fc.layer0.weight"],
            "radial.second": torch.cat([columns[path] for path in kept], 1),
        }


def _atoms(
    source: Source,
    layer: AtomConvolution,
    ins: Multiplicities,
    outs: Multiplicities,
    config: ChargE3NetConfig,
) -> dict[str, Tensor]:
    paths = all_paths(ins, config.lmax, outs)
    fans = _fans(paths, ins)
    kept = all_paths(ins, config.lmax, layer.kept)
    before, columns = gate_inputs(outs), _gated(outs, layer.kept)
    return source.radial(paths, ins, kept) | {
        "lin1.weight": source.linear("lin1.weight", layer.lin1, ins, ins),
        "sc.weight": source.linear("sc.weight", layer.sc, ins, before, columns),
        "lin2.weight": source.linear("lin2.weight", layer.lin2, fans, before, columns),
        "lin3.weight": source.linear("lin3.weight", layer.lin3, fans, {EVEN_SCALAR: 1}),
    }


def _gated(outs: Multiplicities, kept: list[Irrep]) -> Tensor:
    """Which columns of the published 0e gate input are the scalars and the kept gates."""
    columns = list(range(outs[EVEN_SCALAR]))
    start = len(columns)
    for irrep, mul in outs.items():
        if irrep[0] > 0:
            columns += range(start, start + mul) if irrep in kept else ()
            start += mul
    return torch.tensor(columns)


def _probes(
    source: Source,
    layer: ProbeLayer,
    atoms: Multiplicities,
    before: Multiplicities,
    after: Multiplicities,
    config: ChargE3NetConfig,
) -> dict[str, Tensor]:
    paths = all_paths(atoms, config.lmax, after)
    fans = _fans(paths, atoms)
    outs = gate_inputs(after)
    kept = [Path(k, k[0], EVEN_SCALAR if natural(k) else ODD_SCALAR) for k in layer.read]
    return source.radial(paths, atoms, kept) | {
        "lin1.weight": source.linear("lin1.weight", layer.lin1, atoms, atoms),
        "sc.weight": source.linear("sc.weight", layer.sc, before, outs),
        "lin2.weight": source.linear("lin2.weight", layer.lin2, fans, outs),
        "lin3.weight": source.linear("lin3.weight", layer.lin3, fans, {EVEN_SCALAR: 1}),
    }


def _fans(paths: list[Path], ins: Multiplicities) -> Multiplicities:
    """How many channels the paths bring to each irrep, irreps in the published order."""
    found: Multiplicities = {}
    for path in sorted(paths, key=lambda path: path.irrep):
        found[path.irrep] = found.get(path.irrep, 0) + ins[path.sender]
    return found


def prefixed(place: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with a place before their names."""
    return {f"{place}.{key}": value for key, value in tensors.items()}


def _tell(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Says how many published numbers were left behind."""
    given = sum(value.numel() for key, value in tensors.items() if key.endswith(".weight"))
    kept = sum(value.numel() for key, value in state.items() if not key.startswith("basis."))
    logging.getLogger("neupol").info(
        "ChargE3Net: %d of %d published weights never reach the density and were dropped",
        given - kept,
        given,
    )
