"""What PyTorch hands to the two halves of an operation with a derivative of its own."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Context(Protocol):
    """The ``ctx`` of a ``torch.autograd.Function``; PyTorch leaves it without a type.

    Attributes:
        saved_tensors: what the forward pass saved; an input that was None comes back as None.
        needs_input_grad: for each input, whether a derivative by it is asked for.
    """

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]: ...

    @property
    def needs_input_grad(self) -> tuple[bool, ...]: ...

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keeps tensors for the backward pass."""

    def set_materialize_grads(self, value: bool) -> None:
        """Whether a gradient that nobody computed arrives as zeros; otherwise as None."""

    # The forward pass leaves what is no tensor (sizes, a library) to the backward pass under any
    # name that it likes, and only the operation itself knows what it left: hence the Any.
    def __getattr__(self, name: str) -> Any: ...

    def __setattr__(self, name: str, value: object) -> None: ...
