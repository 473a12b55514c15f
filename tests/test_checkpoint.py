"""A checkpoint comes back bit for bit, and nothing else is ever taken for one."""

from __future__ import annotations

import dataclasses
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from neupol_cli import checkpoint
from neupol_cli.errors import CheckpointError, StorageError


@dataclasses.dataclass(frozen=True)
class Config:
    width: int = 3
    targets: tuple[str, ...] = ("U0",)


class Toy(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.line = nn.Linear(config.width, 1)
        self.register_buffer("tied", self.line.bias.detach())  # shared memory is no trouble
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("halves", torch.tensor([1.5, -2.25], dtype=torch.bfloat16))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Toy]:
    torch.manual_seed(0)
    model = Toy(Config())
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, "toy", model, {"targets": {"U0": "eV"}, "text": "Größe"})
    return path, model


def test_weights_come_back_exactly(saved: tuple[Path, Toy]) -> None:
    path, model = saved
    meta, tensors = checkpoint.load_file(path)
    assert meta["model"] == "toy" and meta["config"] == {"width": 3, "targets": ["U0"]}
    assert meta["targets"] == {"U0": "eV"} and meta["text"] == "Größe"
    assert len(meta["sha256"]) == 64
    fresh = Toy(Config())
    checkpoint.restore(fresh, tensors, path)
    for name, value in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name
        assert fresh.state_dict()[name].dtype == value.dtype


def test_equal_models_give_equal_files(saved: tuple[Path, Toy], tmp_path: Path) -> None:
    path, model = saved
    checkpoint.save(tmp_path / "b", "toy", model, {"text": "Größe", "targets": {"U0": "eV"}})
    assert (tmp_path / "b").read_bytes() == path.read_bytes()


def test_any_length_of_header_is_read(tmp_path: Path) -> None:
    first = set()
    for size in range(0, 300, 4):
        checkpoint.save(tmp_path / "m", "toy", Toy(Config()), {"text": "x" * size})
        first.add((tmp_path / "m").read_bytes()[0])
        assert checkpoint.load_file(tmp_path / "m")[0]["text"] == "x" * size
    assert 0x80 in first  # the byte with which a pickle begins


def test_every_flipped_bit_is_found(saved: tuple[Path, Toy]) -> None:
    path, _ = saved
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    places = set(rng.integers(0, len(whole), 150).tolist()) | set(
        range(len(whole) - 20, len(whole))
    )
    for place in sorted(places):
        broken = bytearray(whole)
        broken[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        try:
            meta, tensors = checkpoint.load_file(path)
        except CheckpointError:
            continue
        # White space of the outer JSON carries nothing; everything that is read must be the same.
        path.write_bytes(whole)
        good_meta, good = checkpoint.load_file(path)
        assert meta == good_meta and all(torch.equal(good[k], tensors[k]) for k in good)


def test_every_truncation_is_refused(saved: tuple[Path, Toy]) -> None:
    path, _ = saved
    whole = path.read_bytes()
    for size in [0, 1, 7, 8, 9, 50, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"model\.safetensors: "):
            checkpoint.load_file(path)


def test_foreign_files_are_refused_with_a_reason(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    foreign = tmp_path / "foreign.safetensors"
    save_file({"w": torch.ones(2)}, foreign)
    with pytest.raises(CheckpointError, match="not a checkpoint of neupol"):
        checkpoint.load_file(foreign)
    text = tmp_path / "text"
    text.write_text("not a checkpoint at all, but long enough to have a length field")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        checkpoint.load_file(text)
    with pytest.raises(StorageError, match="No such file"):
        checkpoint.load_file(tmp_path / "absent")


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("reader", [checkpoint.load_file, checkpoint.load_published])
def test_pickles_are_never_executed(tmp_path: Path, reader: object) -> None:
    trace = tmp_path / "executed"
    plain, archive = tmp_path / "a.pt", tmp_path / "b.pt"
    plain.write_bytes(pickle.dumps(Bomb(str(trace))))
    torch.save({"state": Bomb(str(trace))}, archive)
    for path in (plain, archive):
        with pytest.raises(CheckpointError):
            reader(path)  # type: ignore[operator]
    assert not trace.exists()


def test_published_weights_are_read(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "a.pt")
    assert torch.equal(
        checkpoint.load_published(tmp_path / "a.pt")["state_dict"]["w"], torch.ones(2)
    )


def test_shapes_and_names_must_agree(saved: tuple[Path, Toy]) -> None:
    path, _ = saved
    _, tensors = checkpoint.load_file(path)
    with pytest.raises(CheckpointError, match=r"line\.weight has shape \(1, 3\)"):
        checkpoint.restore(Toy(Config(width=4)), tensors, path)
    with pytest.raises(CheckpointError, match=r"has no tensor count"):
        checkpoint.restore(Toy(Config()), {k: v for k, v in tensors.items() if k != "count"}, path)
    with pytest.raises(CheckpointError, match=r"holds the tensor extra"):
        checkpoint.restore(Toy(Config()), {**tensors, "extra": torch.ones(1)}, path)


def test_state_tree_is_exact(tmp_path: Path) -> None:
    tree = {
        "step": 12,
        "best": float("inf"),
        "moments": {"0": {"avg": torch.randn(3, 2).double(), "step": torch.tensor(3.0)}},
        "list": [torch.tensor([1, 2]), 0.1, "x", None, True],
        "empty": {},
    }
    checkpoint.save_state(tmp_path / "s", tree)
    back = checkpoint.load_state(tmp_path / "s")
    assert back["step"] == 12 and back["best"] == float("inf") and back["empty"] == {}
    assert torch.equal(back["moments"]["0"]["avg"], tree["moments"]["0"]["avg"])  # type: ignore[index]
    assert torch.equal(back["list"][0], torch.tensor([1, 2])) and back["list"][1:] == [
        0.1,
        "x",
        None,
        True,
    ]
    with pytest.raises(CheckpointError, match="holds a 'state' file where 'weights' is needed"):
        checkpoint.load_file(tmp_path / "s")
