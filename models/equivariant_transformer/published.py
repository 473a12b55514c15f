"""Weights of TorchMD-NET's equivariant transformer, under their published names, as ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from neupol_cli.errors import CheckpointError
from neupol_cli.models.base import Arguments

# The published arguments that this network has one value for.
ONLY: dict[str, object] = {
    "activation": "silu",
    "attn_activation": "silu",
    "aggr": "add",
    "reduce_op": "add",
    "distance_influence": "both",
    "neighbor_embedding": True,
    "cutoff_lower": 0.0,
    "rbf_type": "expnorm",
}
# Names of the heads' products as they were before they stood in a list called ``layers``.
OLDER = re.compile(r"(update_net\.|output_network\.)(\d\.(?:weight|bias))")
# Published output models -> our heads.
OUTPUTS = {"Scalar": "scalar", "DipoleMoment": "dipole", "ElectronicSpatialExtent": "extent"}
REFERENCES = ("Atomref", "LearnableAtomref")  # priors that add a number an atom
BODY = "representation_model"
NECK = f"{BODY}.neighbor_embedding"
HEAD = "output_model.output_network"


def settings_of(config: Arguments) -> Arguments:
    """Our configuration's fields from the published arguments.

    Raises:
        CheckpointError: the arguments describe a variant that is not built here.
    """
    for key, value in ONLY.items():
        if config.get(key, value) != value:
            raise CheckpointError(
                f"published {key}={config[key]!r} is not built here, only {value!r}"
            )
    unknown = [name for name in priors(config) if name not in REFERENCES]
    if unknown:
        raise CheckpointError(
            f"published prior_model {unknown[0]!r} is not built here, only atoms' energies"
        )
    return {
        "species": tuple(config.get("species", range(1, config.get("max_z", 100)))),
        "hidden": config["embedding_dimension"],
        "layers": config["num_layers"],
        "heads": config["num_heads"],
        "cutoff": float(config["cutoff_upper"]),
        "encoding_size": config["num_rbf"],
        "vector_cutoff": bool(config.get("vector_cutoff", False)),
        "outputs": (_output(config),),
        "softening": 0.0,
    }


def _output(config: Arguments) -> str:
    name = str(config.get("output_model", "Scalar"))
    if name not in OUTPUTS:
        known = ", ".join(OUTPUTS)
        raise CheckpointError(f"published output_model={name!r} is not built here, only {known}")
    return OUTPUTS[name]


def priors(config: Arguments) -> list[str]:
    """The names of the published priors, which stand alone, in lists or as keys of tables."""
    given = config.get("prior_model") or []
    listed = given if isinstance(given, list) else [given]
    return [name for prior in listed for name in (prior if isinstance(prior, dict) else [prior])]


def units_of(weights: Mapping[str, Tensor], config: Arguments) -> Arguments:
    """Energies of single atoms, eV: ``atomref`` of the arguments, or the published prior's table.

    ``mean`` and ``std`` are among the weights, and stay in the network.

    Raises:
        CheckpointError: the arguments name such a prior, and its table is nowhere.
    """
    energies = dict(config.get("atomref") or {})
    tables = [value for key, value in weights.items() if key.endswith("atomref.weight")]
    if not energies and tables:
        energies = dict(enumerate(tables[-1].flatten().tolist()))
    if priors(config) and not energies:
        raise CheckpointError(
            "published prior_model 'Atomref' without its table: give config['atomref']"
        )
    return {"atomref": energies}


def state_of(weights: Mapping[str, Tensor], settings: Arguments) -> dict[str, Tensor]:
    """Our state_dict; what the published network carries and never reads stays behind."""
    species = torch.tensor(settings["species"])
    state = {
        "radial.encoding.means": weights[f"{BODY}.distance_expansion.means"],
        "radial.encoding.betas": weights[f"{BODY}.distance_expansion.betas"],
        "embedding.weight": weights[f"{BODY}.embedding.weight"][species],
        "neighbourhood.embedding.weight": weights[f"{NECK}.embedding.weight"][species],
    }
    for kind in ("weight", "bias"):
        state[f"neighbourhood.distance.{kind}"] = weights[f"{NECK}.distance_proj.{kind}"]
        state[f"neighbourhood.combine.{kind}"] = weights[f"{NECK}.combine.{kind}"]
        state[f"norm.{kind}"] = weights[f"{BODY}.out_norm.{kind}"]
    for k in range(settings["layers"]):
        layer = _layer(weights, f"{BODY}.attention_layers.{k}", settings["heads"], k == 0)
        state |= {f"layers.{k}.{name}": value for name, value in layer}
    (output,) = settings["outputs"]
    head = _extent(weights) if output == "extent" else _gated(weights, output == "dipole")
    return state | {"mean": weights["mean"].reshape(1)} | head


def _layer(
    weights: Mapping[str, Tensor], name: str, heads: int, first: bool
) -> Iterator[tuple[str, Tensor]]:
    """One layer; the published v and dv keep each head's three parts together, ours does not."""

    def part(module: str, k: int) -> Tensor:
        return weights[module].unflatten(0, (heads, 3, -1))[:, k].flatten(0, 1)

    parts = (0, 2) if first else (0, 2, 1)
    for kind in ("weight", "bias"):
        v, dv = f"{name}.v_proj.{kind}", f"{name}.dv_proj.{kind}"
        inputs = [weights[f"{name}.{qk}_proj.{kind}"] for qk in ("q", "k")]
        yield f"inputs.{kind}", torch.cat(inputs + [part(v, k) for k in parts])
        distances = [weights[f"{name}.dk_proj.{kind}"]]
        yield f"distances.{kind}", torch.cat(distances + [part(dv, k) for k in parts])
        outputs = weights[f"{name}.o_proj.{kind}"]
        yield f"outputs.{kind}", outputs.chunk(3)[2] if first else outputs
        yield f"norm.{kind}", weights[f"{name}.layernorm.{kind}"]
    if not first:
        yield "vectors.weight", weights[f"{name}.vec_proj.weight"]


def _gated(weights: Mapping[str, Tensor], dipole: bool) -> dict[str, Tensor]:
    """The two gated blocks; ``std`` goes into the last products, of charges and of dipoles.

    Raises:
        CheckpointError: a mean, which the published code adds to each component of a dipole.
    """
    layers, rows = "update_net.layers", 2 if dipole else 1
    state = {
        "heads.0.first.lengths.weight": weights[f"{HEAD}.0.vec1_proj.weight"],
        "heads.0.first.vectors.weight": weights[f"{HEAD}.0.vec2_proj.weight"],
        "heads.0.second.lengths.weight": weights[f"{HEAD}.1.vec1_proj.weight"],
    }
    if dipole:
        if weights["mean"].any():
            raise CheckpointError(
                "published weights of a dipole with a mean: no length of a vector"
            )
        own = weights[f"{HEAD}.1.vec2_proj.weight"] * weights["std"]
        state["heads.0.second.vectors.weight"] = own
    for kind in ("weight", "bias"):
        state[f"heads.0.first.update.0.{kind}"] = weights[f"{HEAD}.0.{layers}.0.{kind}"]
        state[f"heads.0.first.update.2.{kind}"] = weights[f"{HEAD}.0.{layers}.2.{kind}"]
        state[f"heads.0.second.update.0.{kind}"] = weights[f"{HEAD}.1.{layers}.0.{kind}"]
        last = weights[f"{HEAD}.1.{layers}.2.{kind}"][:rows].clone()
        last[0] *= weights["std"]
        state[f"heads.0.second.update.2.{kind}"] = last
    return state


def _extent(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The charges' perceptron; ``std`` goes into its last product."""
    state = {}
    for kind in ("weight", "bias"):
        state[f"heads.0.charges.first.{kind}"] = weights[f"{HEAD}.layers.0.{kind}"]
        state[f"heads.0.charges.second.{kind}"] = (
            weights[f"{HEAD}.layers.2.{kind}"] * weights["std"]
        )
    return state


def recognised(content: object) -> tuple[dict[str, Tensor], Arguments] | None:
    """The weights and arguments of a Lightning checkpoint of TorchMD-NET, or None.

    Checkpoints from before 2024 lack ``layers`` in the names of what the heads multiply by.
    """
    if not isinstance(content, Mapping):
        return None
    config = content.get("hyper_parameters")
    if not isinstance(config, Mapping) or config.get("model") != "equivariant-transformer":
        return None
    weights = {key.removeprefix("model."): value for key, value in content["state_dict"].items()}
    return {OLDER.sub(r"\1layers.\2", key): value for key, value in weights.items()}, dict(config)
