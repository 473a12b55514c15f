"""A device for tests: it computes on the CPU, and writes down where a GPU would make the host wait.

A host that waits sends nothing meanwhile, and the GPU stands idle until it does again. Waits are:
to read a number (`.item()`, `bool`, `int`), results whose size depends on numbers (`nonzero`,
boolean masks, `unique`, `repeat_interleave` without its size), copies from and to the host that are
not asked to go on meanwhile, and what does one of these inside (`bincount`, `linalg.inv`). That of
PyTorch's own kernels which this list does not know is found on a GPU (benchmarks/gpu.py).

Tensors of the device are wrapped ones: whatever mixes them with those of the host fails here, too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "chip"
PACKAGE = Path(__file__).parents[1] / "neupol_cli"
# Operations that read a number, or make results whose sizes are read from numbers.
WAITS = {
    "aten::_local_scalar_dense",
    "aten::_linalg_check_errors",
    "aten::_unique2",
    "aten::bincount",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::nonzero",
    "aten::unique_consecutive",
    "aten::unique_dim",
}
COPIES = {"aten::_to_copy", "aten::copy_"}
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_found: list[str] = []
# When it is imported, which is before any test: autograd counts devices at its first derivative.
_setup_privateuseone_for_python_backend(NAME)
DEVICE = torch.device(f"{NAME}:0")


class OnDevice(Tensor):
    """A tensor of the device around one of the host."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        """One wait, however many numbers; PyTorch's own does not know wrapped tensors."""
        _found.append(f"{_place()} tolist")
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(function, args, kwargs or {})


class _Everything(TorchDispatchMode):
    """Sees what is made on the device, too: `torch.zeros(3, device=...)` has no tensor to tell."""

    def __torch_dispatch__(
        self, function: Any, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(function, args, kwargs or {})


class _Generator:
    """Random numbers come from the CPU's generators, whatever device they are asked for."""

    def __new__(cls, device: object = None) -> Any:
        return _REAL_GENERATOR()


_REAL_GENERATOR = torch.Generator


@contextmanager
def accelerator() -> Iterator[torch.device]:
    """The device; within, it is there."""
    torch.Generator = _Generator  # type: ignore[misc]
    # Modules that are moved or cast get new parameters: a wrapped tensor cannot change inside.
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Everything():
            yield DEVICE
    finally:
        torch.Generator = _REAL_GENERATOR  # type: ignore[misc]
        torch.__future__.set_overwrite_module_params_on_conversion(before)


@contextmanager
def waits() -> Iterator[list[str]]:
    """Where the host would have waited meanwhile: ``file:function operation``, one a wait."""
    _found.clear()
    here: list[str] = []
    yield here
    here += _found


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in _pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    ours = {id(x.inner): x for x in tensors if isinstance(x, OnDevice)}
    device = kwargs.get("device")
    if device is not None:
        device = torch.device(device)
    if not ours and (device is None or device.type != NAME):
        return function(*args, **kwargs)
    name = function._schema.name
    if _waits(name, args, kwargs, tensors):
        _found.append(f"{_place()} {name.removeprefix('aten::')}")
    assert name in COPIES or name in INDEXED or _together(tensors), f"{name} mixes devices"
    here = device is None or device.type == NAME
    if device is not None:
        kwargs = {**kwargs, "device": "cpu"}
    args, kwargs = _pytree.tree_map_only(OnDevice, lambda x: x.inner, (args, kwargs))
    # A copy to the other device is one on the CPU, too, where `to` would answer the same tensor.
    result = function(*args, **kwargs)

    def placed(x: Tensor) -> Tensor:
        return ours[id(x)] if id(x) in ours else OnDevice(x) if here else x

    return _pytree.tree_map_only(Tensor, placed, result)


def _together(tensors: list[Tensor]) -> bool:
    """Whether all of them are on the device, single numbers aside."""
    return all(isinstance(x, OnDevice) or x.dim() == 0 for x in tensors)


def _waits(name: str, args: Any, kwargs: Mapping[str, Any], tensors: list[Tensor]) -> bool:
    if name in COPIES:
        return _crosses(name, args, kwargs) and not _goes_on(name, args, kwargs)
    if name == "aten::repeat_interleave":
        return kwargs.get("output_size") is None and (len(args) < 2 or args[1] is None)
    if name in INDEXED:
        masks = any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
        return masks or not _together(tensors)
    return name in WAITS


def _crosses(name: str, args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether a copy goes from one device to the other; a number of the host alone is no copy."""
    if name == "aten::copy_":
        return isinstance(args[0], OnDevice) != isinstance(args[1], OnDevice) and args[1].dim() > 0
    device = kwargs.get("device")
    return device is not None and (torch.device(device).type == NAME) != isinstance(
        args[0], OnDevice
    )


def _goes_on(name: str, args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether a copy goes to the device and nobody waits for it."""
    asked = kwargs.get("non_blocking") or (name == "aten::copy_" and len(args) > 2 and args[2])
    return bool(asked) and not isinstance(args[1 if name == "aten::copy_" else 0], OnDevice)


def _place() -> str:
    """The innermost line of ours that is at work; in a backward pass there may be none."""
    frame = sys._getframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            return f"{path.relative_to(PACKAGE)}:{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "PyTorch"
