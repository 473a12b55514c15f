"""Published Equiformer weights under our names; those that nobody reads are left behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from neupol_cli.errors import CheckpointError
from neupol_cli.models.base import Arguments
from neupol_cli.models.equiformer.config import EquiformerConfig
from neupol_cli.models.equiformer.so3 import Muls, gate_inputs, multiplicities
from neupol_cli.models.equiformer.tensor_product import Path, TensorProduct, paths

State = dict[str, Tensor]


def config_of(given: Arguments) -> EquiformerConfig:
    """Our configuration from the published arguments."""
    if given.get("basis_type", "gaussian") != "gaussian":
        raise CheckpointError(
            f"the radial basis {given['basis_type']!r} is not known here, only gaussian"
        )
    default = EquiformerConfig()
    return EquiformerConfig(
        irreps=given.get("irreps_node_embedding", default.irreps),
        layers=given.get("num_layers", default.layers),
        cutoff=float(given.get("max_radius", default.cutoff)),
        heads=given.get("num_heads", default.heads),
        head_irreps=given.get("irreps_head", default.head_irreps),
        mlp_irreps=given.get("irreps_mlp_mid", default.mlp_irreps),
        feature=multiplicities(given.get("irreps_feature", f"{default.feature}x0e"))[0],
        encoding_size=given.get("number_of_basis", default.encoding_size),
        radial=tuple(given.get("fc_neurons", default.radial)),
        alpha_drop=given.get("alpha_drop", default.alpha_drop),
        average_degree=given.get("average_degree", default.average_degree),
        average_nodes=given.get("average_nodes", default.average_nodes),
        softening=0.0,
    )


def matrices(flat: Tensor, ins: Sequence[int], outs: Sequence[int]) -> list[Tensor]:
    """A published flat weight, [in, out] a degree -> (out, in) a degree."""
    sizes = [a * b for a, b in zip(ins, outs, strict=False)]
    pieces = flat.split(sizes)
    return [
        piece.view(a, b).t().contiguous() for piece, a, b in zip(pieces, ins, outs, strict=False)
    ]


class Translation:
    """Collects our state from published weights, block by block."""

    def __init__(self, weights: Mapping[str, Tensor], config: EquiformerConfig) -> None:
        self.weights, self.config = weights, config
        self.muls = multiplicities(config.irreps)
        head = multiplicities(config.head_irreps)
        self.values: Muls = tuple(mul * config.heads for mul in head)
        self.mlp = multiplicities(config.mlp_irreps)
        self.product = TensorProduct(self.muls, paths(len(self.muls) - 1))
        self.state: State = {}

    def linear(
        self,
        theirs: str,
        ours: str,
        ins: Sequence[int],
        outs: Sequence[int],
        degrees: int | None = None,
    ) -> None:
        """One LinearRS, its first ``kept`` degrees."""
        for degree, matrix in enumerate(
            matrices(self.weights[f"{theirs}.tp.weight"], ins, outs)[:degrees]
        ):
            self.state[f"{ours}.weights.{degree}"] = matrix
        if f"{theirs}.bias.0" in self.weights:
            self.state[f"{ours}.bias"] = self.weights[f"{theirs}.bias.0"]

    def norm(self, theirs: str, ours: str, muls: Sequence[int], degrees: int | None = None) -> None:
        """One layer norm."""
        for degree, weight in enumerate(
            self.weights[f"{theirs}.affine_weight"].split(list(muls))[:degrees]
        ):
            self.state[f"{ours}.weights.{degree}"] = weight
        self.state[f"{ours}.bias"] = self.weights[f"{theirs}.affine_bias"]

    def radial(self, theirs: str, ours: str, rows: Tensor) -> None:
        """One radial network, these of its path weights."""
        layers = len(self.config.radial)
        for index in (k for layer in range(layers) for k in (3 * layer, 3 * layer + 1)):
            for kind in ("weight", "bias"):
                name = f"{theirs}.net.{index}.{kind}"
                self.state[f"{ours}.hidden.{index}.{kind}"] = self.weights[name]
        self.state[f"{ours}.last"] = self.weights[f"{theirs}.net.{3 * layers}.weight"][rows]
        self.state[f"{ours}.offset"] = self.weights[f"{theirs}.offset"][rows]

    def embeddings(self) -> None:
        """Atoms, the radial basis, and the degree embedding's live part."""
        kinds, channels = len(self.config.species), self.muls[0]
        table = self.weights["atom_embed.atom_type_lin.tp.weight"]
        self.state["embedding"] = table.view(kinds, channels)
        self.state["embedding_bias"] = self.weights["atom_embed.atom_type_lin.bias.0"]
        for name in ("mean", "std", "weight", "bias"):
            self.state[f"geometry.basis.{name}"] = self.weights[f"rbf.{name}"].flatten()
        self.state["degree.constant"] = (
            self.weights["edge_deg_embed.exp.tp.weight"] + self.weights["edge_deg_embed.exp.bias.0"]
        )
        # The paths from l = 0 come first, both among the weights and in each degree's stack.
        rows = torch.arange(channels * len(self.muls))
        self.radial("edge_deg_embed.rad", "degree.radial", rows)
        self.linear("edge_deg_embed.proj", "degree.proj", self.product.widths, self.muls)
        for degree in range(len(self.muls)):
            name = f"degree.proj.weights.{degree}"
            self.state[name] = self.state[name][:, :channels]

    def attention(self, block: int, degrees: int | None) -> None:
        """Attention of one block, of which ``kept`` degrees are read."""
        theirs, ours = f"blocks.{block}.ga", f"layers.{block}.attention"
        widths = self.product.widths
        self.norm(f"blocks.{block}.norm_1", f"layers.{block}.norm_1", self.muls)
        self.linear(f"{theirs}.merge_src", f"{ours}.source", self.muls, self.muls)
        self.linear(f"{theirs}.merge_dst", f"{ours}.target", self.muls, self.muls)
        product = self.product if degrees is None else TensorProduct(self.muls, self._even())
        rows = [torch.arange(self.product.weights)[self.product.places[p]] for p in product.paths]
        self.radial(f"{theirs}.sep_act.dtp_rad", f"{ours}.radial", torch.cat(rows))
        self.linear(f"{theirs}.sep_act.lin", f"{ours}.lin", widths, gate_inputs(self.muls))
        for degree, stack in enumerate(product.stacks):
            starts = [(self.product.stacks[degree][p], self.muls[p.l1]) for p in stack]
            columns = torch.cat([torch.arange(start, start + mul) for start, mul in starts])
            name = f"{ours}.lin.weights.{degree}"
            self.state[name] = self.state[name][:, columns]
        self.linear(f"{theirs}.sep_alpha", f"{ours}.alpha", widths[:1], self.values[:1])
        self.state[f"{ours}.alpha_dot"] = self.weights[f"{theirs}.alpha_dot"][0]
        self.path_weights(
            f"{theirs}.sep_value.dtp.tp.weight", f"{ours}.values.path_weights", degrees
        )
        self.linear(f"{theirs}.sep_value.lin", f"{ours}.values.lin", widths, self.values, degrees)
        self.linear(f"{theirs}.proj", f"{ours}.proj", self.values, self.muls, degrees)

    def _even(self) -> list[Path]:
        """The paths that somebody reads where only scalars leave the attention."""
        return [path for path in self.product.paths if path.even]

    def path_weights(self, theirs: str, ours: str, degrees: int | None) -> None:
        """The value's path weights, of paths to the kept degrees."""
        every = paths(len(self.muls) - 1)
        pieces = self.weights[theirs].flatten().split([self.muls[p.l1] for p in every])
        limit = len(self.muls) if degrees is None else degrees
        mine = [piece for piece, path in zip(pieces, every, strict=True) if path.l3 < limit]
        self.state[ours] = torch.cat(mine)

    def feed_forward(self, block: int) -> None:
        """The feed-forward network of a block that is not the last."""
        theirs, ours = f"blocks.{block}", f"layers.{block}"
        self.norm(f"{theirs}.norm_2", f"{ours}.norm_2", self.muls)
        self.linear(f"{theirs}.ffn.fctp_1", f"{ours}.ffn.first", self.muls, gate_inputs(self.mlp))
        self.linear(f"{theirs}.ffn.fctp_2", f"{ours}.ffn.second", self.mlp, self.muls)

    def readout(self, block: int) -> None:
        """The last block's feed-forward network, the norm and the head."""
        scalars, feature = self.muls[:1], (self.config.feature,)
        theirs = f"blocks.{block}"
        self.norm(f"{theirs}.norm_2", "head.norm_2", self.muls, 1)
        self.linear(f"{theirs}.ffn.fctp_1", "head.ffn.first", self.muls, gate_inputs(self.mlp), 1)
        for kind in ("weights.0", "bias"):  # without the gates
            name = f"head.ffn.first.{kind}"
            self.state[name] = self.state[name][: self.mlp[0]]
        self.linear(f"{theirs}.ffn.fctp_2", "head.ffn.second", self.mlp[:1], feature)
        self.linear(f"{theirs}.ffn_shortcut", "head.shortcut", scalars, feature)
        self.norm("norm", "head.norm", feature)
        for theirs, ours, outs in (("head.0", "first", feature), ("head.2", "second", (1,))):
            (matrix,) = matrices(self.weights[f"{theirs}.tp.weight"], feature, outs)
            self.state[f"head.heads.0.{ours}.weight"] = matrix
            self.state[f"head.heads.0.{ours}.bias"] = self.weights[f"{theirs}.bias.0"]


def published(weights: Mapping[str, Tensor], given: Arguments) -> tuple[EquiformerConfig, State]:
    """Our configuration and state_dict from published weights and arguments.

    Raises:
        KeyError: a weight is missing.
        CheckpointError: an argument asks for what this network does not have.
    """
    config = config_of(given)
    translation = Translation(weights, config)
    translation.embeddings()
    last = config.layers - 1
    for block in range(last):
        translation.attention(block, None)
        translation.feed_forward(block)
    translation.attention(last, 1)
    translation.readout(last)
    return config, translation.state
