"""Published DeepDFT weights: which network they are of, and what both networks take from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

EMBEDDING = "atom_model.atom_embeddings.weight"
STEP = 0.1  # Angstrom between the published Gaussians


def recognised(checkpoint: Any, mark: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The weights of a published checkpoint and the arguments that their shapes tell, or None.

    The authors' trainer keeps the state_dict under ``model``, Lightning under ``state_dict`` with
    every name behind ``network.``. The equivariant network's cutoff leaves no trace: it is taken
    as published, 4 Angstrom.

    Args:
        checkpoint: what the file holds.
        mark: a weight that only the wanted network has.
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


def published_common(
    weights: Mapping[str, Tensor], config: Mapping[str, Any], names: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What both networks take from published weights.

    Args:
        weights, config: the published ones.
        names: our names of further maps by their published ones.

    Returns:
        The shared fields of the Config, and the state under our names. Row 0 of the published
        embedding belongs to no element.
    """
    table = weights["atom_model.atom_embeddings.weight"]
    fields = {
        "species": tuple(range(1, table.shape[0])),
        "hidden": config["hidden_state_size"],
        "layers": config["num_interactions"],
        "cutoff": config["cutoff"],
    }
    every = dict(names) | {
        "probe_model.readout_function.0": "before_readout",
        "probe_model.readout_function.2": "readout",
    }
    state = {"embedding.weight": table[1:]}
    for theirs, ours in every.items():
        state[f"{ours}.weight"] = weights[f"{theirs}.weight"]
        if f"{theirs}.bias" in weights:
            state[f"{ours}.bias"] = weights[f"{theirs}.bias"]
    return fields, state
