"""Checkpoints that somebody made to do harm, each with a valid checksum.

A generator changes settings, header and tensors of a small checkpoint of every network. Whatever it
makes is refused as a checkpoint, at once, or is one that answers with finite numbers.
"""

from __future__ import annotations

import copy
import dataclasses
import random
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch
from torch import Tensor

from neupol_cli import checkpoint, registry
from neupol_cli.errors import CheckpointError, DivergedError
from neupol_cli.models.density.model import DensityModel
from neupol_cli.models.property import PropertyModel
from tests.contracts.conftest import SMALL, SMALL_DENSITIES

SEED = 13
NETWORKS = {**SMALL, **SMALL_DENSITIES, "egnn-nbody": {"hidden": 8, "layers": 2}}
WATER = ase.Atoms("OHH", [[0, 0, 0], [0, 0.76, 0.59], [0, -0.76, 0.59]])
SECONDS, MEGABYTES = 5, 500
# What a setting, a header's entry or a part of one may be made into.
EVIL: tuple[Any, ...] = (
    0, -1, 1, 2, 3, 10**7, 10**9, 10**30, 10**400, 0.5, -0.0, 1e-300, 1e300, float("nan"),
    float("inf"), True, False, None, "", "x", "1", "\x1b[31m", "\ud800", "9999999x0e+99x1e", [], {},
    [0], [1, 1], [-5], [10**9], ["a"], ["a", "a"], [["a"]], [None], {"a": 1}, {"value": "x"},
    [1, 6, 7, 8, 9, 120], "movable", "frozen", "learned",
)  # fmt: skip
HEADER = ("model", "config", "targets", "data", "valid", "test", "training", "valence", "text")
Content = tuple[dict[str, Any], dict[str, Tensor]]


@pytest.fixture(scope="module")
def contents() -> dict[str, Content]:
    """A small checkpoint of every network, in memory."""
    torch.manual_seed(0)
    made = {}
    for name, settings in NETWORKS.items():
        model = registry.build(name, settings)
        config = dataclasses.asdict(model.config)
        header = {
            "model": name,
            "config": {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()},
            "targets": dict(model.targets),
            "data": {"source": "made", "fingerprint": "f", "elements": list(model.species)},
            "test": {"x": {"value": 1.0, "unit": "eV"}},
        }
        made[name] = (header, model.state_dict())
    return made


def mutations(header: dict[str, Any], draw: random.Random) -> Iterator[str]:
    """Changes a header in place, endlessly; says what it did."""
    while True:
        kind, value = draw.choice(("config", "config", "header", "part")), draw.choice(EVIL)
        if kind == "config" and isinstance(header.get("config"), dict) and header["config"]:
            key = draw.choice(sorted(header["config"]))
            header["config"][key] = value
            yield f"config.{key} = {value!r:.40}"
        elif kind == "header":
            key = draw.choice(HEADER)
            header[key] = value
            yield f"{key} = {value!r:.40}"
        else:
            parts = [key for key in HEADER if isinstance(header.get(key), dict) and header[key]]
            key = draw.choice(parts)
            inner = draw.choice(sorted(header[key]))
            header[key][inner] = value
            yield f"{key}.{inner} = {value!r:.40}"


def spoilt(tensor: Tensor, draw: random.Random) -> Tensor:
    """Another tensor in the place of one."""
    makers: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda t: torch.full_like(t, float("nan")),
        lambda t: torch.full_like(t, -float("inf")),
        lambda t: torch.full_like(t, 3e38),
        lambda t: t * 1e30,
        lambda t: t > 0,
        lambda t: t.to(torch.int64),
        lambda t: t.to(torch.complex64),
        lambda t: t.to(torch.float8_e4m3fn),
        lambda t: t.to(torch.bfloat16),
        lambda t: t.half(),
        lambda t: t.flatten()[:-1],
        lambda t: t[None],
        lambda t: torch.zeros(0),
    )
    return draw.choice(makers)(tensor)


def crafted(contents: dict[str, Content], seed: int) -> tuple[str, Content]:
    """The checkpoint of a seed, and what was done to it."""
    draw = random.Random(seed)
    name = draw.choice(sorted(contents))
    header, tensors = copy.deepcopy(contents[name][0]), dict(contents[name][1])
    if seed % 4:
        changes = mutations(header, draw)
        done = [next(changes) for _ in range(draw.choice((1, 1, 2)))]
    else:
        place = draw.choice(sorted(tensors))
        tensors[place] = spoilt(tensors[place], draw)
        done = [f"tensor {place} -> {tensors[place].dtype} {tuple(tensors[place].shape)}"]
    return f"{name}: {', '.join(done)}", (header, tensors)


def answered(path: Path) -> None:
    """Loads a checkpoint, and asks it for water."""
    model = registry.load(str(path))
    if isinstance(model, PropertyModel) and model.known_elements >= {1, 8}:
        values = model.predict([WATER], forces="U0" in model.targets)
        assert all(np.isfinite(value).all() for value in values.values())
    elif isinstance(model, DensityModel) and model.known_elements >= {1, 8}:
        assert model.density(WATER, torch.randn(50, 3)).isfinite().all()


def peak() -> float:
    """Megabytes that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def outcome(path: Path) -> str:
    """How a checkpoint ends: refused, diverged or answered; anything else is raised."""
    try:
        answered(path)
    except CheckpointError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return "refused"
    except DivergedError:
        return "diverged"
    return "answered"


@pytest.mark.parametrize("block", range(4))
def test_crafted_checkpoints_are_refused_or_right(
    contents: dict[str, Content], tmp_path: Path, block: int
) -> None:
    before, ends = peak(), []
    for seed in range(SEED + 60 * block, SEED + 60 * (block + 1)):
        what, (header, tensors) = crafted(contents, seed)
        path = tmp_path / "m.safetensors"
        checkpoint.write(path, "weights", header, tensors)
        start = time.process_time()
        try:
            ends.append(outcome(path))
        except Exception as error:
            raise AssertionError(f"seed {seed}, {what}: {error!r}") from error
        if ends[-1] == "refused":
            assert time.process_time() - start < SECONDS, what
        assert peak() - before < MEGABYTES, what
    assert ends.count("refused") > 30 and ends.count("answered")
