"""The weights of EGNN's published code (github.com/vgsatorras/egnn) under this project's names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from neupol_cli.models.base import Arguments
from neupol_cli.models.egnn.config import EGNNConfig, NBodyConfig

# Names within a layer, theirs -> ours.
QM9 = {
    "edge_mlp.0": "first",
    "edge_mlp.2": "second",
    "att_mlp.0": "attention",
    "node_mlp.0": "update.0",
    "node_mlp.2": "update.2",
}
QM9_READOUT = {
    "node_dec.0": "heads.0.atom.0",
    "node_dec.2": "heads.0.atom.1",
    "graph_dec.0": "heads.0.molecule.0",
    "graph_dec.2": "heads.0.molecule.2",
}
NBODY = {
    "edge_mlp.0": "message.first",
    "edge_mlp.2": "message.second",
    "coord_mlp.0": "push.first",
    "coord_mlp.2": "push.second",
    "coord_mlp_vel.0": "drift.first",
    "coord_mlp_vel.2": "drift.second",
    "node_mlp.0": "update.first",
    "node_mlp.2": "update.second",
}


def published_egnn(
    weights: Mapping[str, Tensor], config: Arguments
) -> tuple[EGNNConfig, dict[str, Tensor]]:
    """Published weights and arguments -> our configuration and state (backbone's names)."""
    ours = EGNNConfig(
        species=tuple(config.get("species", (1, 6, 7, 8, 9))),
        hidden=config["hidden_nf"],
        layers=config["n_layers"],
        charge_power=config.get("charge_power", 2),
        charge_scale=config.get("charge_scale", 9.0),
    )
    names = {"embedding": "embedding"} | _of_layers(QM9, ours.layers) | QM9_READOUT
    return ours, _renamed(weights, names)


def published_nbody(
    weights: Mapping[str, Tensor], config: Arguments
) -> tuple[NBodyConfig, dict[str, Tensor]]:
    """Published weights and arguments -> our configuration and state.

    The last layer's feature update is read by nothing: it is left behind.
    """
    ours = NBodyConfig(hidden=config["hidden_nf"], layers=config["n_layers"])
    names = {"embedding": "embeddings.0"} | _of_layers(NBODY, ours.layers)
    unread = f"layers.{ours.layers - 1}.update"
    read = {theirs: name for theirs, name in names.items() if not name.startswith(unread)}
    return ours, _renamed(weights, read)


def _of_layers(names: Mapping[str, str], layers: int) -> dict[str, str]:
    """Each layer's names, theirs -> ours."""
    return {
        f"gcl_{k}.{theirs}": f"layers.{k}.{ours}"
        for k in range(layers)
        for theirs, ours in names.items()
    }


def _renamed(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The Linear maps of these names under ours; phi_x's last one alone has no bias."""
    return {
        f"{ours}.{kind}": weights[f"{theirs}.{kind}"]
        for theirs, ours in names.items()
        for kind in ("weight", "bias")
        if not (kind == "bias" and theirs.endswith("coord_mlp.2"))
    }
