"""A chain of dense layers, each edge by itself, as one compiled step.

    y_n = silu(W y_of + b) * (C r) + y_skip      y_0, y_1 given, C and the skip may be missing

Written with one PyTorch operation after another, every layer walks some (E, H) tensors through
memory three or four times, and its products with them. Here some edges go through all layers while
they are in the cache, and one tensor a layer waits for the way back. Derivatives of derivatives
come from PyTorch's operations.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.kernels import compiler
from neupol_cli.models.kernels.context import Context
from neupol_cli.models.kernels.pointers import pointer
from neupol_cli.models.kernels.recorded_gradients import recorded_gradients
from neupol_cli.models.nn.gradient_needed import gradient_needed
from neupol_cli.models.nn.linear import product

SOURCE = Path(__file__).with_name("edge_layers.cpp")
MULTIPLE = 16  # of which widths are


class Layer(NamedTuple):
    """One layer: y_n from earlier ones.

    Attributes:
        of, skip: numbers of y; skip is -1 without one.
        weight: (out, in) W.
        bias: (out,) b or None.
        factor: (out, N) C or None.
    """

    of: int
    skip: int
    weight: Tensor
    bias: Tensor | None = None
    factor: Tensor | None = None


Given = tuple[Tensor, Tensor | None, Tensor | None]
TENSORS = 3  # of a layer; as many are given


def library(like: Tensor, widths: Sequence[int]) -> ctypes.CDLL | None:
    """The loops for numbers of the type and on the device of ``like``; None where they do not
    serve."""
    if any(width % MULTIPLE for width in widths):
        return None
    return compiler.library_for(SOURCE, like, {})


def plainly(layers: Sequence[Layer], given: Given) -> Tensor:
    """The last y in plain PyTorch.

    Args:
        layers: the first makes y_2.
        given: (E, in) y_0, (E, in) y_1 or None, (E, N) r or None.
    """
    first, second, radial = given
    values = [first, second]
    for of, skip, weight, bias, factor in layers:
        y = functional.silu(product(_there(values[of]), weight, bias))
        y = y if factor is None else y * product(_there(radial), factor)
        values.append(y if skip < 0 else y + _there(values[skip]))
    return _there(values[-1])


def layered(loops: ctypes.CDLL, layers: Sequence[Layer], given: Given) -> Tensor:
    """The function above, compiled."""
    ends = tuple((layer.of, layer.skip) for layer in layers)
    tensors = [x for layer in layers for x in layer[2:]]
    return _Layered.apply(loops, torch.is_grad_enabled(), ends, *given, *tensors)


def _there(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def _named(ends: Sequence[tuple[int, int]], inputs: Sequence[Tensor | None]) -> list[Layer]:
    """Layers from their ends and the tensors behind what is given."""
    at = range(TENSORS, len(inputs), TENSORS)
    return [
        Layer(*end, *inputs[k : k + TENSORS])  # type: ignore[arg-type]
        for end, k in zip(ends, at, strict=True)
    ]


class _Layered(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context,
        loops: ctypes.CDLL,
        recorded: bool,
        ends: tuple[tuple[int, int], ...],
        *inputs: Tensor | None,
    ) -> Tensor:
        # needs_input_grad is about the inputs alone: it is true of weights under no_grad, too.
        held = _Held(ends, inputs, keep=recorded and any(ctx.needs_input_grad))
        last = held.new(held.edges, len(held.layers[-1].weight))
        loops.layered(*held.arguments(), pointer(last))
        ctx.loops, ctx.ends = loops, ends
        ctx.save_for_backward(*inputs, *held.kept)
        return last

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ends, wanted = ctx.ends, ctx.needs_input_grad[3:]
        inputs, kept = ctx.saved_tensors[: len(wanted)], ctx.saved_tensors[len(wanted) :]
        if torch.is_grad_enabled():  # somebody will differentiate the gradient

            def formula(inputs: list[Tensor | None]) -> Tensor:
                return plainly(_named(ends, inputs), tuple(inputs[:TENSORS]))  # type: ignore[arg-type]

            return *(None,) * 3, *recorded_gradients(formula, inputs, gradients, wanted)
        # Forces are after no derivative by a weight.
        needed = [want and gradient_needed(x) for want, x in zip(wanted, inputs, strict=True)]
        held = _Held(ends, inputs, kept=kept, needed=needed)
        ctx.loops.layered_back(*held.arguments(), pointer(gradients[0].contiguous()))
        return *(None,) * 3, *held.answers()


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("inputs", "outputs", "of", "skip")),
        *((name, ctypes.c_void_p) for name in ("weight", "turned", "bias", "factor", "across")),
        *((name, ctypes.c_void_p) for name in ("z", "by_weight", "by_bias", "by_factor")),
    )


class _Edges(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("edges", "layers", "threads")),
        *((name, ctypes.c_long) for name in ("first", "second", "numbers", "wide")),
        *((name, ctypes.c_void_p) for name in ("y_0", "y_1", "radial")),
        *((name, ctypes.c_void_p) for name in ("by_0", "by_1", "by_radial")),
    )


class _Held:
    """The loops' first arguments, with the matrices that they want turned.

    Attributes:
        edges: E.
        layers: every tensor's numbers one behind the other.
        kept: (E, out) z of each layer, if the way back is to read it.
        by: memory for the derivatives that the loops make, in the order of the inputs.
    """

    def __init__(
        self,
        ends: Sequence[tuple[int, int]],
        inputs: Sequence[Tensor | None],
        keep: bool = False,
        kept: Sequence[Tensor] = (),
        needed: Sequence[bool] = (),
    ) -> None:
        dense = [None if x is None else x.contiguous() for x in inputs]
        self.layers, self.given = _named(ends, dense), dense[:TENSORS]
        self.edges, self.threads = len(_there(dense[0])), torch.get_num_threads()
        self.numbers = 0 if dense[2] is None else dense[2].shape[1]
        self.wide = -(-self.numbers // MULTIPLE) * MULTIPLE
        self.needed, self.kept = needed, list(kept)
        if keep:
            self.kept = [self.new(self.edges, len(layer.weight)) for layer in self.layers]
        self.by = list(self._memory(dense)) if needed else [None] * len(inputs)
        self._structures = [self._layer(n, layer) for n, layer in enumerate(self.layers)]

    def new(self, *shape: int) -> Tensor:
        return _there(self.given[0]).new_empty(shape)

    def _memory(self, inputs: Sequence[Tensor | None]) -> Iterator[Tensor | None]:
        """For derivatives: those of edges are passed on the way to all others."""
        for n, x in enumerate(inputs):
            if x is None or (n >= 2 and not self.needed[n]):
                yield None
            elif n < TENSORS:
                yield x.new_zeros(self.edges, self.wide) if n == 2 else torch.empty_like(x)
            else:
                shape = x.shape[::-1] if _is_factor(n) else x.shape
                yield x.new_zeros(self.threads, *shape)

    def _layer(self, n: int, layer: Layer) -> tuple[_Layer, tuple[Tensor | None, ...]]:
        """A layer as the loops read it, and the tensors that are to last as long."""
        weight, factor = layer.weight, layer.factor
        turned, across = None if self.needed else weight.t().contiguous(), None
        if factor is not None:
            across = functional.pad(factor, (0, self.wide - self.numbers))
            factor = factor.t().contiguous()
        z = self.kept[n] if self.kept else None
        at = TENSORS * (n + 1)
        tensors = weight, turned, layer.bias, factor, across, z, *self.by[at : at + TENSORS]
        ends = (*weight.shape[::-1], layer.of, layer.skip)
        return _Layer(*ends, *map(pointer, tensors)), tensors

    def arguments(self) -> tuple[object, ...]:
        widths = (0 if x is None else x.shape[1] for x in self.given[:2])
        sizes = (self.edges, len(self.layers), self.threads, *widths, self.numbers, self.wide)
        pointers = map(pointer, (*self.given, *self.by[:TENSORS]))
        layers = (_Layer * len(self.layers))(*(layer for layer, _ in self._structures))
        return ctypes.byref(_Edges(*sizes, *pointers)), layers

    def answers(self) -> Iterator[Tensor | None]:
        """The derivatives that are needed, matrices turned back."""
        for n, (by, needed) in enumerate(zip(self.by, self.needed, strict=True)):
            if by is None or not needed:
                yield None
            elif n < TENSORS:
                yield by[:, : self.numbers] if n == 2 else by
            else:
                whole = by[0] if self.threads == 1 else by.sum(0)
                yield whole.t() if _is_factor(n) else whole


def _is_factor(n: int) -> bool:
    """Whether the n-th input is some layer's C, which the loops want turned."""
    return n >= TENSORS and n % TENSORS == 2
