"""Weights and training states on disk: safetensors with a JSON header, checked, never pickled.

A file is a set of named tensors plus one JSON object in the metadata of the safetensors format
(key ``neupol``). The object carries a SHA-256 over itself and over every tensor's name, dtype,
shape and bytes, so that one flipped bit anywhere is found before the numbers are used.

Two kinds exist: ``weights`` (what `predict` needs: the model's name, its config, its units, what it
was trained on and how well it does) and ``state`` (what `fit --resume` needs: everything else).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor, nn

from neupol_cli.errors import CheckpointError, StorageError
from neupol_cli.io import files
from neupol_cli.models.base import Header, Model
from neupol_cli.validation import mismatch, other_format

FORMAT = 1
# A training state: nested dictionaries and lists of tensors, numbers and strings. Each part of the
# training wrote its own and knows what it reads, hence the Any.
State = dict[str, Any]
KEY, METADATA = "neupol", "__metadata__"
# Of numbers in our files, as safetensors calls them: weights, and what else a training's state has.
DTYPES = {"F16", "BF16", "F32", "F64", "I64", "I32", "I16", "I8", "U8", "BOOL"}
TENSOR = "__tensor__"  # stands in the JSON for a tensor that is stored beside it


def digest(header: Mapping[str, object], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over the header without its own sum, and over every tensor in name order."""
    total = hashlib.sha256()
    plain = {key: value for key, value in header.items() if key != "sha256"}
    total.update(json.dumps(plain, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(_bytes(tensor))
    return total.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    """The tensor's memory as flat bytes (any dtype, bfloat16 included)."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def write(
    path: Path, kind: str, header: Mapping[str, object], tensors: Mapping[str, Tensor]
) -> None:
    """Writes one checked file atomically: a reader sees the old file or the new one, whole.

    Raises: StorageError when the disk refuses; the earlier file is then untouched.
    """
    # Copies, because tensors that share memory cannot be stored and views would store their base.
    owned = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    # Through JSON once, so that the sum is over what a reader will see (lists, text keys).
    full = json.loads(json.dumps({"format": FORMAT, "kind": kind, **header}))
    full["sha256"] = digest(full, owned)
    data = safetensors_torch.save(owned, metadata={KEY: json.dumps(full, sort_keys=True)})
    with files.atomic(path) as partial:
        partial.write_bytes(data)


def read(path: Path, kind: str) -> tuple[dict[str, object], dict[str, Tensor]]:
    """The header and the tensors (on the CPU) of a file written by `write`.

    Raises:
        StorageError: it cannot be read.
        CheckpointError: it is not ours, damaged or cut short.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    header = _header(path, _outer(path, data))
    if problem := other_format(header.get("format"), FORMAT):
        raise CheckpointError(f"{path}: {problem}")
    if header.get("kind") != kind:
        raise CheckpointError(
            f"{path}: holds a {header.get('kind')!r} file where {kind!r} is needed"
        )
    try:
        tensors = safetensors_torch.load(data)
        found = digest(header, tensors)
    except (SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged: {error}") from error  # RecursionError included
    if found != header.get("sha256"):
        raise CheckpointError(
            f"{path}: the checksum does not agree: the file was damaged or edited"
        )
    return header, tensors


def _outer(path: Path, data: bytes) -> dict[str, Any]:
    """The JSON object at the head of a safetensors file, its types of numbers all known here.

    Raises:
        CheckpointError: saying what the file is instead.
    """
    # A length, then an object: checked first, since a length may begin with any two bytes.
    size = int.from_bytes(data[:8], "little")
    if not 2 <= size <= len(data) - 8 or data[8:9] != b"{":
        if data[:2] == b"PK" or data[:1] == b"\x80":
            raise CheckpointError(f"{path}: is a pickle, which could run code: not loaded")
        raise CheckpointError(f"{path}: is not a safetensors file, or was cut short")
    try:
        outer = json.loads(data[8 : 8 + size])
        dtypes = {name: outer[name]["dtype"] for name in outer if name != METADATA}
        strange = next((name for name in dtypes if dtypes[name] not in DTYPES), None)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not a safetensors file: {error}") from error
    if strange is not None:
        raise CheckpointError(
            f"{path}: tensor {strange} is of type {dtypes[strange]}, which neupol does not store"
        )
    return dict(outer)


def _header(path: Path, outer: Mapping[str, Any]) -> dict[str, object]:
    """The JSON object of a file's metadata.

    Raises:
        CheckpointError: there is none.
    """
    try:
        header = json.loads(outer[METADATA][KEY])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: carries no neupol header: not a checkpoint of neupol"
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its neupol header is not an object")
    return header


def save(path: Path, model_name: str, model: Model, meta: Mapping[str, object]) -> None:
    """Writes a model's weights and what a reader must know to use them.

    ``meta`` may hold ``targets`` ({name: unit}), ``data`` (source and fingerprint), ``test``
    ({name: {"value", "unit"}}), ``training`` (settings) and ``text``. The config is the model's.
    """
    header = {"model": model_name, "config": dataclasses.asdict(model.config), **meta}
    write(path, "weights", header, model.state_dict())


def load_file(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """``(header, tensors)`` of a weights file. Raises: as :func:`read`."""
    header, tensors = read(path, "weights")
    for key in ("model", "config"):
        if key not in header:
            raise CheckpointError(f"{path}: its header does not name the {key}")
    if problem := mismatch(header, Header, ""):
        raise CheckpointError(f"{path}: in its header {problem}")
    return cast(Header, header), tensors


def restore(model: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Copies tensors into a model, all of them and only if every name and shape agrees.

    Raises: CheckpointError, naming the first tensor that is missing, unknown or of another shape.
    """
    own = model.state_dict()
    for name, value in own.items():
        if name not in tensors:
            raise CheckpointError(f"{source}: has no tensor {name}, which the model needs")
        if tensors[name].shape != value.shape:
            raise CheckpointError(
                f"{source}: tensor {name} has shape {tuple(tensors[name].shape)}, "
                f"the model's is {tuple(value.shape)}"
            )
    for name in tensors:
        if name not in own:
            raise CheckpointError(
                f"{source}: holds the tensor {name}, which the model does not have"
            )
    model.load_state_dict(dict(tensors))


def load_published(path: Path) -> object:
    """What a published ``.pt`` file holds, read by torch's loader that executes nothing.

    Raises:
        StorageError: it cannot be read.
        CheckpointError: it holds anything but plain tensors, numbers, strings and containers.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of, it also refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError,
            AttributeError, IndexError) as error:  # fmt: skip
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{path}: not loadable as plain weights: {reason}") from error


def save_state(path: Path, tree: Mapping[str, object]) -> None:
    """Writes nested dictionaries and lists of tensors, numbers and strings, tensors bit for bit."""
    tensors: dict[str, Tensor] = {}
    write(path, "state", {"tree": _flatten(tree, "", tensors)}, tensors)


def load_state(path: Path) -> State:
    """The tree that `save_state` wrote (tensors on the CPU).

    Raises:
        StorageError, CheckpointError: see `read`.
    """
    header, tensors = read(path, "state")
    try:
        tree = cast(State, _unflatten(header["tree"], tensors))
    except (KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: its tree does not agree with its tensors") from error
    return tree


def _flatten(tree: object, name: str, tensors: dict[str, Tensor]) -> object:
    """A JSON copy of a tree in which each tensor became a reference to an entry of ``tensors``."""
    if isinstance(tree, Tensor):
        tensors[name] = tree
        return {TENSOR: name}
    if isinstance(tree, Mapping):
        return {str(k): _flatten(v, f"{name}/{k}", tensors) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_flatten(v, f"{name}/{i}", tensors) for i, v in enumerate(tree)]
    return tree


def _unflatten(tree: object, tensors: Mapping[str, Tensor]) -> object:
    """The inverse of `_flatten`."""
    if isinstance(tree, dict):
        if TENSOR in tree:
            return tensors[tree[TENSOR]]
        return {key: _unflatten(value, tensors) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_unflatten(value, tensors) for value in tree]
    return tree
