"""EGNN's messages summed at their receivers, and phi_x where points move, as one compiled step.

    z_ij = silu(a_i + b_j + C e_ij),   g_ij = silu(W z_ij + c)
    m_ij = f_ij sigmoid(w g_ij + w0) g_ij
    out_i = sum_j m_ij,                phi_ij = q silu(A m_ij + b)

Written with one PyTorch operation after another, every step of this walks an (edges, H) tensor
through memory, and more than twelve such tensors wait for the backward pass. Here a few edges go
through all the steps while they are in the cache, and two tensors wait, or three. Derivatives of
derivatives (training on forces) come from the plain formula of messages.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from neupol_cli.models.egnn import messages
from neupol_cli.models.egnn.messages import MessageInputs, PushInputs
from neupol_cli.models.kernels import compiler
from neupol_cli.models.kernels.context import Context
from neupol_cli.models.kernels.pointers import pointer
from neupol_cli.models.kernels.recorded_gradients import recorded_gradients
from neupol_cli.models.nn.gradient_needed import gradient_needed

SOURCE = Path(__file__).with_name("message_loops.cpp")
MULTIPLE = 16  # of which features are


def library(like: Tensor, hidden: int) -> ctypes.CDLL | None:
    """The loops for H = ``hidden`` features of the type and on the device of ``like``; None where
    they do not serve."""
    if hidden % MULTIPLE:
        return None
    return compiler.library_for(SOURCE, like, {"HIDDEN": hidden})


def summed_messages(
    loops: ctypes.CDLL, p: MessageInputs, receivers: Tensor, senders: Tensor
) -> Tensor:
    """The function of the same name in messages.py."""
    nothing = (None,) * len(PushInputs._fields)
    summed, _ = _Summed.apply(loops, torch.is_grad_enabled(), receivers, senders, *p, *nothing)
    return summed


def sums_and_pushes(
    loops: ctypes.CDLL, p: MessageInputs, push: PushInputs, receivers: Tensor, senders: Tensor
) -> tuple[Tensor, Tensor]:
    """The function of the same name in messages.py."""
    summed, phi = _Summed.apply(loops, torch.is_grad_enabled(), receivers, senders, *p, *push)
    return summed, phi


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Context,
        loops: ctypes.CDLL,
        recorded: bool,
        receivers: Tensor,
        senders: Tensor,
        *inputs: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        held = _Held(inputs, receivers, senders)
        # needs_input_grad is about the inputs alone: it is true of weights under no_grad, too.
        kept = held.kept() if recorded and any(ctx.needs_input_grad) else (None, None, None)
        out, phi = torch.zeros_like(held.p.received), held.new(held.edges if held.pushed else 0, 1)
        structure = _Kept(*map(pointer, kept))
        loops.summed(*held.arguments(), ctypes.byref(structure), pointer(out), pointer(phi))
        ctx.loops = loops
        ctx.save_for_backward(receivers, senders, *kept, *inputs)
        return out, phi

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        receivers, senders, first, second, third, *inputs = ctx.saved_tensors
        wanted = ctx.needs_input_grad[4:]
        if torch.is_grad_enabled():  # somebody will differentiate the gradient
            given = gradients if inputs[-1] is not None else gradients[:1]

            def formula(inputs: list[Tensor | None]) -> list[Tensor]:
                return _formula(inputs, receivers, senders)

            return *(None,) * 4, *recorded_gradients(formula, inputs, given, wanted)
        # Forces are after no derivative by a weight.
        needed = [want and gradient_needed(x) for want, x in zip(wanted, inputs, strict=True)]
        held = _Held(inputs, receivers, senders)
        found, structure = _Found(held, needed), _Kept(*map(pointer, (first, second, third)))
        by_out, by_phi = (gradient.contiguous() for gradient in gradients)
        answer = ctypes.byref(structure), pointer(by_out), pointer(by_phi), found.argument()
        ctx.loops.summed_back(*held.arguments(), *answer)
        return *(None,) * 4, *found.answers()


def _formula(inputs: list[Tensor | None], receivers: Tensor, senders: Tensor) -> list[Tensor]:
    """The same in plain PyTorch: sums, and phi_x if there is one."""
    p, push = _named(inputs)
    if push is None:
        return [messages.summed_messages(p, receivers, senders)]
    return [*messages.sums_and_pushes(p, push, receivers, senders)]


def _named(inputs: Sequence[Tensor | None]) -> tuple[MessageInputs, PushInputs | None]:
    count = len(MessageInputs._fields)
    p = MessageInputs(*inputs[:count])  # type: ignore[arg-type]
    return p, None if inputs[count] is None else PushInputs(*inputs[count:])  # type: ignore[arg-type]


def _structure(name: str, *fields: str, numbers: Sequence[str] = ()) -> type[ctypes.Structure]:
    """One of message_loops.cpp: whole numbers first, then pointers."""
    longs = [(field, ctypes.c_long) for field in numbers]
    pointers = [(field, ctypes.c_void_p) for field in fields]
    return type(name, (ctypes.Structure,), {"_fields_": [*longs, *pointers]})


_Edges = _structure("Edges", "receivers", "senders", numbers=["count"])
_Kept = _structure("Kept", "first", "second", "third")
_Inputs = _structure(
    "Inputs",
    *("received", "sent", "encoded", "to_distance", "weight", "turned", "bias"),
    *("attention", "attention_bias", "envelope", "push", "push_turned", "push_bias", "last"),
    numbers=["numbers", "pushed"],
)
_Gradients = _structure(
    "Gradients",
    *("received", "sent", "encoded", "to_distance", "weight", "bias"),
    *("attention", "attention_bias", "envelope", "push", "push_bias", "last", "across"),
    numbers=["wide"],
)


class _Held:
    """The loops' first arguments, with the matrices that they want turned.

    Attributes:
        edges, pushed: E, and Q or 0.
        p, push: the inputs, every tensor's numbers one behind the other; push may be None.
    """

    def __init__(self, inputs: Sequence[Tensor | None], receivers: Tensor, senders: Tensor) -> None:
        self.p, push = _named([None if x is None else x.contiguous() for x in inputs])
        p, self.push = self.p, push
        self.ends = receivers.contiguous(), senders.contiguous()
        self.edges, self.pushed = len(receivers), 0 if push is None else len(push.weight)
        self.matrices = p.to_distance.t().contiguous(), p.weight.t().contiguous(), p.weight
        self.phi: tuple[Tensor | None, ...] = (None,) * 4
        if push is not None:
            self.phi = push.weight.t().contiguous(), push.weight, push.bias, push.last
        gates = p.attention, p.attention_bias, p.envelope
        tensors = (p.received, p.sent, p.encoded, *self.matrices, p.bias, *gates, *self.phi)
        self._inputs = _Inputs(p.encoded.shape[1], self.pushed, *map(pointer, tensors))
        self._edges = _Edges(self.edges, *map(pointer, self.ends))

    def arguments(self) -> tuple[object, ...]:
        return ctypes.byref(self._edges), ctypes.byref(self._inputs)

    def new(self, *shape: int) -> Tensor:
        return self.p.received.new_empty(shape)

    def kept(self) -> tuple[Tensor, Tensor, Tensor]:
        """Memory for what the way back reads."""
        hidden = len(self.p.weight)
        first, second = (self.new(self.edges, hidden) for _ in range(2))
        return first, second, self.new(self.edges, self.pushed)


class _Found:
    """Memory for the derivatives that are needed, in the order of the inputs."""

    def __init__(self, held: _Held, needed: Sequence[bool]) -> None:
        names = (*MessageInputs._fields, *(f"push_{name}" for name in PushInputs._fields))
        self.needed = dict(zip(names, needed, strict=True))
        push = held.push or (None,) * len(PushInputs._fields)
        inputs = dict(zip(names, (*held.p, *push), strict=True))
        self.by = {name: self._zeros(name, inputs[name]) for name in names}
        edges, self.numbers = held.p.encoded.shape
        wide = -(-self.numbers // MULTIPLE) * MULTIPLE
        if self.needed["encoded"]:
            self.by["encoded"] = held.new(edges, wide)
        self.across = functional.pad(held.p.to_distance, (0, wide - self.numbers))
        self._gradients = _Gradients(wide, *map(pointer, (*self.by.values(), self.across)))

    def _zeros(self, name: str, like: Tensor | None) -> Tensor | None:
        # Sums at points are made on the way to all others.
        if like is None or not (self.needed[name] or name in ("received", "sent")):
            return None
        return like.new_zeros(like.shape[::-1] if name in TURNED else like.shape)

    def argument(self) -> object:
        return ctypes.byref(self._gradients)

    def answers(self) -> list[Tensor | None]:
        """The derivatives that are needed, matrices turned back."""
        answers = {name: x if self.needed[name] else None for name, x in self.by.items()}
        for name in TURNED:
            matrix = answers[name]
            answers[name] = None if matrix is None else matrix.t()
        encoded = answers["encoded"]
        answers["encoded"] = None if encoded is None else encoded[:, : self.numbers]
        return list(answers.values())


TURNED = ("to_distance", "weight", "push_weight")  # their rows are what they are applied to
