"""The weights of PyTorch Geometric's DimeNetPlusPlus under this project's names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from neupol_cli.models.base import Arguments
from neupol_cli.models.dimenet.config import DimeNetConfig

# Part of a published name -> ours; what is not named here stays.
NAMES = {
    "rbf.freq": "distances.frequencies",
    "emb.lin_rbf": "embedding.radial",
    "emb.lin": "embedding.mix",
    "interaction_blocks": "layers",
    "output_blocks": "outputs",
}
INTERACTION = {
    "lin_rbf1": "radial_in",
    "lin_rbf2": "radial_out",
    "lin_sbf1": "angular_in",
    "lin_sbf2": "angular_out",
    "lin_kj": "passed",
    "lin_ji": "own",
    "lin_down": "down",
    "lin_up": "up",
    "lin": "skip",
}
RESIDUAL = {"layers_before_skip": "before", "layers_after_skip": "after"}
OUTPUT = {"lin_rbf": "radial", "lin_up": "up", "lins": "layers", "lin": "heads"}


def translated(
    weights: Mapping[str, Tensor], config: Arguments
) -> tuple[DimeNetConfig, dict[str, Tensor]]:
    """Published weights and arguments -> our configuration and the backbone's state.

    Rows of the published embedding are atomic numbers from 0 on; ours are the species.
    """
    table = weights["emb.emb.weight"]
    species = tuple(config.get("species", range(1, table.shape[0])))
    ours = DimeNetConfig(
        species=species,
        targets=tuple(f"prediction{k or ''}" for k in range(config["out_channels"])),
        units=("",) * config["out_channels"],
        hidden=config["hidden_channels"],
        layers=config["num_blocks"],
        triplet=config["int_emb_size"],
        basis=config["basis_emb_size"],
        output=config["out_emb_channels"],
        spherical=config["num_spherical"],
        radial=config["num_radial"],
        cutoff=config.get("cutoff", 5.0),
        envelope=config.get("envelope_exponent", 5),
        before_skip=config.get("num_before_skip", 1),
        after_skip=config.get("num_after_skip", 2),
        output_layers=config.get("num_output_layers", 3),
    )
    state = {"embedding.species": table[list(species)]}
    state |= {_ours(name): value for name, value in weights.items() if name != "emb.emb.weight"}
    return ours, state


def _ours(name: str) -> str:
    """A published name in our words."""
    block = re.fullmatch(r"(interaction_blocks|output_blocks)\.(\d+)\.(.+)", name)
    if block is None:
        stem, _, kind = name.rpartition(".")
        return NAMES.get(name) or f"{NAMES.get(stem, stem)}.{kind}"
    kind, number, rest = block.groups()
    first, _, tail = rest.partition(".")
    words = INTERACTION | RESIDUAL if kind == "interaction_blocks" else OUTPUT
    tail = tail.replace("lin1", "first").replace("lin2", "second")
    return f"{NAMES[kind]}.{number}.{words.get(first, first)}.{tail}"


def recognised(content: object) -> tuple[dict[str, Tensor], Arguments] | None:
    """A published state_dict and the arguments that its shapes tell; None if it is another's.

    Cutoff and envelope leave no trace in the weights: they are taken as published.
    """
    key = "interaction_blocks.0.lin_sbf1.weight"
    if not isinstance(content, Mapping):
        return None
    if not {key, "rbf.freq", "output_blocks.0.lin_up.weight"} <= set(content):
        return None
    weights = dict(content)

    def count(pattern: str) -> int:
        return len({m.group(1) for m in (re.match(pattern, name) for name in weights) if m})

    radial = weights["rbf.freq"].shape[0]
    config = {
        "hidden_channels": weights["emb.emb.weight"].shape[1],
        "out_channels": weights["output_blocks.0.lin.weight"].shape[0],
        "num_blocks": count(r"interaction_blocks\.(\d+)\."),
        "int_emb_size": weights["interaction_blocks.0.lin_down.weight"].shape[0],
        "basis_emb_size": weights[key].shape[0],
        "out_emb_channels": weights["output_blocks.0.lin_up.weight"].shape[0],
        "num_spherical": weights[key].shape[1] // radial,
        "num_radial": radial,
        "num_before_skip": count(r"interaction_blocks\.0\.layers_before_skip\.(\d+)\."),
        "num_after_skip": count(r"interaction_blocks\.0\.layers_after_skip\.(\d+)\."),
        "num_output_layers": count(r"output_blocks\.0\.lins\.(\d+)\."),
    }
    return weights, config
