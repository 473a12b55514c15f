"""A chain of dense layers, each edge by itself, as one compiled step.

    y_n = silu(W y_of + b) * (C r) + y_skip      y_0, y_1 given, C and the skip may be missing

Written with one PyTorch operation after another, every layer walks some (E, H) tensors through
memory three or four times, and its products with them. Here some edges go through all layers while
they are in the cache, and one tensor a layer waits for the way back.

What comes back to y_0, y_1 and r, as forces want it, is a compiled step with a derivative of its
own. It reads each z, which is therefore a second output of the chain: what the derivative's
derivative has to say of z joins the rest on one way back. Third derivatives, and second ones by a
way that passes weights, come from PyTorch's operations.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.dimenet.kernels.edge_pointers import EdgePointers, LayerPointers
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
    """The last y in plain PyTorch; see :func:`last_and_z`."""
    return last_and_z(layers, given)[0]


def last_and_z(layers: Sequence[Layer], given: Given) -> list[Tensor]:
    """The last y, and (E, out) z of each layer, in plain PyTorch.

    Args:
        layers: the first makes y_2.
        given: (E, in) y_0, (E, in) y_1 or None, (E, N) r or None.
    """
    first, second, radial = given
    values, zs = [first, second], []
    for of, skip, weight, bias, factor in layers:
        zs.append(product(_there(values[of]), weight, bias))
        y = functional.silu(zs[-1])
        y = y if factor is None else y * product(_there(radial), factor)
        values.append(y if skip < 0 else y + _there(values[skip]))
    return [_there(values[-1]), *zs]


def layered(loops: ctypes.CDLL, layers: Sequence[Layer], given: Given) -> Tensor:
    """The function above, compiled."""
    ends = tuple((layer.of, layer.skip) for layer in layers)
    tensors = [x for layer in layers for x in layer[2:]]
    return _Layered.apply(loops, torch.is_grad_enabled(), ends, *given, *tensors)[0]


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


def pulled_plainly(
    layers: Sequence[Layer], radial: Tensor | None, zs: Sequence[Tensor], by_last: Tensor
) -> list[Tensor | None]:
    """What comes back to y_0, y_1 and r in plain PyTorch; None where nothing does.

    Args:
        layers: as for :func:`plainly`.
        radial: (E, N) r or None.
        zs: (E, out) z of each layer.
        by_last: (E, out) the gradient by the last y.
    """
    by_y: dict[int, Tensor] = {len(layers) + 1: by_last}
    by_radial = None
    for n in reversed(range(len(layers))):
        (of, skip, weight, _, factor), z, g = layers[n], zs[n], by_y.pop(n + 2, None)
        if g is None:
            continue
        if skip >= 0:
            by_y[skip] = _plus(by_y.get(skip), g)
        if factor is not None:
            by_radial = _plus(by_radial, product(g * functional.silu(z), factor.t()))
            g = g * product(_there(radial), factor)
        gate = torch.sigmoid(z)
        dz = g * gate * (1 + z * (1 - gate))
        by_y[of] = _plus(by_y.get(of), product(dz, weight.t()))
    return [by_y.get(0), by_y.get(1), by_radial]


def _plus(sum_: Tensor | None, more: Tensor) -> Tensor:
    return more if sum_ is None else sum_ + more


Ends = tuple[tuple[int, int], ...]


class _Layered(torch.autograd.Function):
    """The last y, and z of each layer where somebody goes back."""

    @staticmethod
    def forward(
        ctx: Context, loops: ctypes.CDLL, recorded: bool, ends: Ends, *inputs: Tensor | None
    ) -> tuple[Tensor, ...]:
        # needs_input_grad is about the inputs alone: it is true of weights under no_grad, too.
        held = _Held(ends, inputs)
        if recorded and any(ctx.needs_input_grad):
            held.z = list(held.rows())
        last = held.new(held.edges, len(held.layers[-1].weight))
        loops.layered(*held.arguments(), pointer(last))
        ctx.loops, ctx.ends = loops, ends
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *held.z)
        return last, *(_there(z) for z in held.z)

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        ends, wanted = ctx.ends, ctx.needs_input_grad[3:]
        inputs, z = ctx.saved_tensors[: len(wanted)], ctx.saved_tensors[len(wanted) :]
        by_last, *by_z = gradients
        # Forces are after no derivative by a weight.
        needed = [want and gradient_needed(x) for want, x in zip(wanted, inputs, strict=True)]
        if by_last is None:
            by_last = torch.zeros_like(z[-1])
        if torch.is_grad_enabled():  # somebody will differentiate the gradient
            if any(needed[TENSORS:]) or any(g is not None for g in by_z):
                return *(None,) * 3, *_chain_gradients(ends, inputs, (by_last, *by_z), wanted)
            pulled = _Pulled.apply(ctx.loops, ends, tuple(needed), by_last, *inputs, *z)
            return *(None,) * 3, *pulled, *(None,) * (len(inputs) - TENSORS)
        held = _Held(ends, inputs, z=z, by_z=by_z, needed=needed)
        ctx.loops.layered_back(*held.arguments(), pointer(by_last.contiguous()))
        return *(None,) * 3, *held.answers()


def _chain_gradients(
    ends: Ends,
    inputs: Sequence[Tensor | None],
    gradients: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The derivatives of the chain and its z as PyTorch's operations have them."""
    there = [g is not None for g in gradients]

    def formula(inputs: list[Tensor | None]) -> list[Tensor]:
        layers, given = _named(ends, inputs), inputs[:TENSORS]
        outputs = last_and_z(layers, tuple(given))  # type: ignore[arg-type]
        return [y for y, has in zip(outputs, there, strict=True) if has]

    return recorded_gradients(formula, inputs, [g for g in gradients if g is not None], wanted)


class _Pulled(torch.autograd.Function):
    """What comes back to y_0, y_1 and r from the last y, given each z."""

    @staticmethod
    def forward(
        ctx: Context,
        loops: ctypes.CDLL,
        ends: Ends,
        needed: tuple[bool, ...],
        by_last: Tensor,
        *tensors: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        inputs, z = tensors[: len(needed)], tensors[len(needed) :]
        by_last = by_last.contiguous()
        held = _Held(ends, inputs, z=z, needed=needed)
        by_y = held.by_y = [*held.rows()[:-1], by_last]
        loops.layered_back(*held.arguments(), pointer(by_last))
        ctx.loops, ctx.ends = loops, ends
        ctx.save_for_backward(*inputs, *z, *by_y)
        return tuple(held.answers())[:TENSORS]

    @staticmethod
    def backward(ctx: Context, *along: Tensor | None) -> tuple[Tensor | None, ...]:
        ends, wanted, saved = ctx.ends, ctx.needs_input_grad[3:], ctx.saved_tensors
        layers, count = len(ends), TENSORS * (len(ends) + 1)
        inputs, z, by_y = saved[:count], saved[count : count + layers], saved[count + layers :]
        if torch.is_grad_enabled():  # a third derivative may follow
            return *(None,) * 3, *_pulled_gradients(ends, [by_y[-1], *inputs, *z], along, wanted)
        needed = [want and gradient_needed(x) for want, x in zip(wanted[1:], inputs, strict=False)]
        # y_0 and y_1 are read by way of z alone; their directions stand where they stood.
        needed[:2] = False, False
        pairs = zip(inputs[:TENSORS], along, strict=True)
        given = [x if x is None or u is not None else torch.zeros_like(x) for x, u in pairs]
        given = [u if u is not None else x for x, u in zip(given, along, strict=True)]
        held = _Held(ends, [*given[:2], *inputs[2:]], along=given[2], z=z, by_y=by_y, needed=needed)
        by_last, by_z = torch.empty_like(by_y[-1]), held.rows()
        held.by_z, held.turned = list(by_z), True
        ctx.loops.layered_along(*held.arguments(), pointer(by_last))
        return *(None,) * 3, by_last, *held.answers(), *by_z


def _pulled_gradients(
    ends: Ends,
    inputs: Sequence[Tensor | None],
    along: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The derivatives of :class:`_Pulled` as PyTorch's operations have them."""
    count = TENSORS * (len(ends) + 1) + 1

    def formula(inputs: list[Tensor | None]) -> list[Tensor]:
        by_last, z = _there(inputs[0]), [_there(x) for x in inputs[count:]]
        pulled = pulled_plainly(_named(ends, inputs[1:count]), inputs[3], z, by_last)
        return [_there(g) for g, u in zip(pulled, along, strict=True) if u is not None]

    return recorded_gradients(formula, inputs, [u for u in along if u is not None], wanted)


class _Held:
    """The loops' first arguments, with the matrices that they want turned.

    Attributes:
        edges: E.
        layers: every tensor's numbers one behind the other.
        turned: whether matrices are wanted turned: on the way there, and along.
        z, by_y, by_z: (E, out) of each layer, where the loops read or make them; see the source.
        by: memory for the derivatives that the loops make, in the order of the inputs.
    """

    def __init__(
        self,
        ends: Ends,
        inputs: Sequence[Tensor | None],
        along: Tensor | None = None,
        z: Sequence[Tensor | None] = (),
        by_y: Sequence[Tensor] = (),
        by_z: Sequence[Tensor | None] = (),
        needed: Sequence[bool] = (),
    ) -> None:
        dense = [None if x is None else x.contiguous() for x in inputs]
        self.layers, self.given = _named(ends, dense), dense[:TENSORS]
        self.along = None if along is None else along.contiguous()
        self.edges, self.threads = len(_there(dense[0])), torch.get_num_threads()
        self.numbers = 0 if dense[2] is None else dense[2].shape[1]
        self.wide = -(-self.numbers // MULTIPLE) * MULTIPLE
        self.needed, self.turned = needed, not needed
        self.z, self.by_y = list(z), list(by_y)
        self.by_z = [None if g is None else g.contiguous() for g in by_z]
        self.by = list(self._memory(dense)) if needed else [None] * len(inputs)

    def rows(self) -> list[Tensor]:
        """(E, out) memory for each layer."""
        return [self.new(self.edges, len(layer.weight)) for layer in self.layers]

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

    def _layer(self, n: int, layer: Layer) -> tuple[LayerPointers, tuple[Tensor | None, ...]]:
        """A layer as the loops read it, and the tensors that are to last as long."""
        weight, factor = layer.weight, layer.factor
        turned, across = weight.t().contiguous() if self.turned else None, None
        if factor is not None:
            across = functional.pad(factor, (0, self.wide - self.numbers))
            factor = factor.t().contiguous()
        rows = (of_layers[n] if of_layers else None for of_layers in (self.z, self.by_y, self.by_z))
        at = TENSORS * (n + 1)
        tensors = weight, turned, layer.bias, factor, across, *rows, *self.by[at : at + TENSORS]
        ends = (*weight.shape[::-1], layer.of, layer.skip)
        return LayerPointers(*ends, *map(pointer, tensors)), tensors

    def arguments(self) -> tuple[object, ...]:
        widths = (0 if x is None else x.shape[1] for x in self.given[:2])
        sizes = (self.edges, len(self.layers), self.threads, *widths, self.numbers, self.wide)
        pointers = map(pointer, (*self.given, self.along, *self.by[:TENSORS]))
        self._structures = [self._layer(n, layer) for n, layer in enumerate(self.layers)]
        layers = (LayerPointers * len(self.layers))(*(layer for layer, _ in self._structures))
        return ctypes.byref(EdgePointers(*sizes, *pointers)), layers

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
