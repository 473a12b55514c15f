"""Published DeepDFT weights: which network they are of, and their names and sizes here."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from neupol_cli.models.base import Arguments
from neupol_cli.models.deepdft.config import PaiNNDensityConfig, SchNetDensityConfig

EMBEDDING = "atom_model.atom_embeddings.weight"
STEP = 0.1  # Angstrom between the published Gaussians


def recognised(checkpoint: object, mark: str) -> tuple[dict[str, Tensor], Arguments] | None:
    """The weights of a published checkpoint and the arguments that their shapes tell, or None.

    The authors' trainer keeps the state_dict under ``model``, Lightning under ``state_dict`` with
    every name behind ``network.``. The equivariant network's cutoff leaves no trace: it is taken
    as published, 4 Angstrom.

    Args:
        checkpoint: what the file holds.
        mark: a weight that only the wanted network has.

    Returns:
        The weights under their published names, and the published arguments.
    """
    if not isinstance(checkpoint, Mapping):
        return None
    inner = checkpoint.get("model", checkpoint.get("state_dict", checkpoint))
    if not isinstance(inner, Mapping):
        return None
    weights = {str(key).removeprefix("network."): value for key, value in inner.items()}
    if EMBEDDING not in weights or mark not in weights:
        return None
    width = weights[mark].shape[1]  # of the edges' basis
    layers = {
        m[1] for m in map(re.compile(r"atom_model\.interactions\.(\d+)\.").match, weights) if m
    }
    config = {
        "hidden_state_size": weights[EMBEDDING].shape[1],
        "num_interactions": len(layers),
        "distance_embedding_size": width,
        "gaussian_expansion_step": STEP,
        "cutoff": 4.0 if "filter_layer" in mark else width * STEP,
    }
    return weights, config


def _common(
    weights: Mapping[str, Tensor], config: Arguments, names: Mapping[str, str]
) -> tuple[Arguments, dict[str, Tensor]]:
    """What both networks take from published weights.

    Args:
        weights, config: the published ones.
        names: our names of further maps by their published ones.

    Returns:
        The shared fields of the Config, and the state under our names. Row 0 of the published
        embedding belongs to no element.
    """
    table = weights[EMBEDDING]
    fields = {
        "species": tuple(range(1, table.shape[0])),
        "hidden": config["hidden_state_size"],
        "layers": config["num_interactions"],
        "cutoff": config["cutoff"],
    }
    names = dict(names) | {
        "probe_model.readout_function.0": "before_readout",
        "probe_model.readout_function.2": "readout",
    }
    state = {"embedding.weight": table[1:]}
    for theirs, ours in names.items():
        state[f"{ours}.weight"] = weights[f"{theirs}.weight"]
        if f"{theirs}.bias" in weights:
            state[f"{ours}.bias"] = weights[f"{theirs}.bias"]
    return fields, state


def published_painn(
    weights: Mapping[str, Tensor], config: Arguments
) -> tuple[PaiNNDensityConfig, dict[str, Tensor]]:
    """The equivariant network's configuration and state from published weights and arguments.

    Raises:
        KeyError: a weight is missing.
    """
    names: dict[str, str] = {}
    for k in range(config["num_interactions"]):
        layers = {
            f"atom_model.interactions.{k}": f"atom_layers.{k}",
            f"probe_model.message_layers.{k}": f"probe_layers.{k}",
        }
        for theirs, ours in layers.items():
            names[f"{theirs}.filter_layer"] = f"{ours}.messages.filter"
            names |= _perceptron(f"{theirs}.scalar_message_mlp", f"{ours}.messages.node")
        gate = f"probe_model.message_layers.{k}.update_gate_mlp"
        names |= _perceptron(gate, f"probe_layers.{k}.gate")
        for kind in ("atom", "probe"):
            names |= _painn_update(f"{kind}_model.scalar_vector_update.{k}", f"{kind}_layers.{k}")
    fields, state = _common(weights, config, names)
    return PaiNNDensityConfig(**fields, basis=config["distance_embedding_size"]), state


def _painn_update(theirs: str, layer: str) -> dict[str, str]:
    maps = {
        f"{theirs}.linearU": f"{layer}.update.left",
        f"{theirs}.linearV": f"{layer}.update.right",
    }
    return maps | _perceptron(f"{theirs}.combined_mlp", f"{layer}.update.mix")


def published_schnet(
    weights: Mapping[str, Tensor], config: Arguments
) -> tuple[SchNetDensityConfig, dict[str, Tensor]]:
    """The invariant network's configuration and state from published weights and arguments.

    Raises:
        KeyError: a weight is missing.
    """
    names: dict[str, str] = {}
    for k in range(config["num_interactions"]):
        atom, probe = f"atom_model.interactions.{k}", "probe_model"
        message = "message_function.msg_function"
        parts = {
            f"{atom}.message_sum_module.{message}_edge": f"atom_layers.{k}.messages.edge",
            f"{atom}.message_sum_module.{message}_node": f"atom_layers.{k}.messages.node",
            f"{atom}.state_transition_function": f"atom_layers.{k}.transition",
            f"{probe}.messagesum_layers.{k}.{message}_edge": f"probe_layers.{k}.messages.edge",
            f"{probe}.messagesum_layers.{k}.{message}_node": f"probe_layers.{k}.messages.node",
            f"{probe}.probe_state_gate_functions.{k}": f"probe_layers.{k}.gate",
            f"{probe}.probe_state_transition_functions.{k}": f"probe_layers.{k}.transition",
        }
        for theirs, ours in parts.items():
            names |= _perceptron(theirs, ours)
    fields, state = _common(weights, config, names)
    return SchNetDensityConfig(**fields, step=config["gaussian_expansion_step"]), state


def _perceptron(theirs: str, ours: str) -> dict[str, str]:
    """Published names count the activation between the two maps."""
    return {f"{theirs}.0": f"{ours}.first", f"{theirs}.2": f"{ours}.second"}
