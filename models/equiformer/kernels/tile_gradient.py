"""The chain rule through one tile of Equiformer's messages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neupol_cli.models.equiformer.kernels.edge_frame import FramedEdges, Tile
from neupol_cli.models.equiformer.kernels.frame_instructions import FrameInstructions
from neupol_cli.models.equiformer.kernels.frame_messages import MessageInputs, odd, rows
from neupol_cli.models.equiformer.kernels.tile import (
    TileState,
    alpha_of,
    columns,
    framed_values,
    gates_of,
    opened_rows,
    source_rows,
    swapped_rows,
)
from neupol_cli.models.nn.activation import SIGMOID, SILU, SMOOTH_LEAKY_RELU
from neupol_cli.models.nn.linear import product


class TileGradient:
    """The chain rule through one tile; adds to ``total``, which is laid out like ``p``; to its
    weights only where the tile ``learns``."""

    def __init__(
        self,
        p: MessageInputs,
        total: MessageInputs,
        framed_edges: FramedEdges,
        instructions: FrameInstructions,
        tile: Tile,
        state: TileState,
        learns: bool,
    ) -> None:
        self.learns = learns
        self.p, self.total, self.framed_edges, self.tile, self.state = (
            p,
            total,
            framed_edges,
            tile,
            state,
        )
        self.muls, self.instructions = instructions.muls, instructions
        self.mixed = [torch.empty_like(block) for block in state.mixed]

    def run(self, gradients: Sequence[Tensor], turns: Sequence[Tensor]) -> None:
        """From the gradients of logits and values (all edges) to those of the parts.

        ``turns`` receives the gradients of the rotations; it is empty if nobody wants them.
        """
        self._values(gradients[1:])
        self._logits(gradients[0][self.tile.edges])
        turned, weights = self._products()
        self._weights(weights)
        self._ends(turned)
        if turns:
            self._turns(gradients[1:], turned, turns)

    def _values(self, gradients: Sequence[Tensor]) -> None:
        """Through turning, Lin and gates: fills ``mixed`` but for its alpha part."""
        edges, state = self.tile.edges, self.state
        rotations = [None, *self.framed_edges.rotations]
        framed = [
            g[edges] if r is None else torch.bmm(r[edges], g[edges])
            for g, r in zip(gradients, rotations, strict=False)
        ]
        gates = gates_of(state, self.muls)
        by_gate: list[Tensor | None] = [None for _ in gates]
        for m, matrix in enumerate(self.p.values):
            g = torch.cat([rows(block, m) for block in framed[m:]], 2)
            if self.learns:
                _outer(self.total.values[m], g, opened_rows(state, gates, m, self.instructions))
            if self.learns and m == 0:
                self.total.value_bias.add_(g.sum((0, 1)))
            self._opened(_folded(product(g, matrix.t()), m), m, gates, by_gate)
        self._gates(gates, by_gate)

    def _opened(
        self, inner: Tensor, m: int, gates: Sequence[Tensor], by_gate: list[Tensor | None]
    ) -> None:
        """From G's components -m and m to Lin's, and a sum for the gates."""
        for degree, piece in enumerate(inner.split(list(self.muls[m:]), 2), m):
            mixed = self.state.mixed[self.instructions.index[degree, m]]
            if degree == 0:
                scalars = mixed[..., : self.muls[0]]
                out = self.mixed[0][..., : self.muls[0]]
                torch.mul(torch.ops.aten.silu_backward(piece, scalars), SILU, out=out)
                continue
            torch.mul(piece, gates[degree - 1], out=self.mixed[self.instructions.index[degree, m]])
            gate_gradient = (piece * mixed).sum(1, keepdim=True)
            before = by_gate[degree - 1]
            by_gate[degree - 1] = gate_gradient if before is None else before.add_(gate_gradient)

    def _gates(self, gates: Sequence[Tensor], by_gate: Sequence[Tensor | None]) -> None:
        """sigmoid' = sigmoid (1 - sigmoid)."""
        at = self.muls[0]
        for gate, gate_gradient in zip(gates, by_gate, strict=True):
            out = self.mixed[0][..., at : at + gate.shape[2]]
            if gate_gradient is not None:
                torch.mul(gate_gradient.mul_(gate), 1 - gate / SIGMOID, out=out)
            at += gate.shape[2]

    def _logits(self, g: Tensor) -> None:
        """f(x) = x (0.2 + 0.8 s), f' = 0.2 + 0.8 s + 0.8 x s (1 - s), s = sigmoid(x)."""
        shape = self.p.attention.shape
        alpha = alpha_of(self.state, self.p)[:, 0]
        s = torch.sigmoid(alpha)
        slope = 0.2 + 0.8 * s
        if self.learns:
            leaky = (alpha * slope).unflatten(1, shape)
            self.total.attention.add_((leaky * g[:, :, None]).sum(0), alpha=SMOOTH_LEAKY_RELU)
        slope.addcmul_(alpha * s, 1 - s, value=0.8)
        by_leaky = g[:, :, None] * (SMOOTH_LEAKY_RELU * self.p.attention)
        torch.mul(slope, by_leaky.flatten(1), out=self.mixed[0][:, 0, -alpha.shape[1] :])

    def _products(self) -> tuple[list[Tensor], Tensor]:
        """Through Lin and the weighted products: gradients of ``turned`` and of the weights."""
        state, p, total = self.state, self.p, self.total
        swapped = swapped_rows(state.turned)
        turned = [
            torch.zeros_like(block, memory_format=torch.contiguous_format) for block in state.turned
        ]
        back = {key: torch.zeros_like(block) for key, block in swapped.items()}
        weights = torch.zeros_like(state.weights)
        if self.learns:
            total.bias.add_(self.mixed[0].sum((0, 1)))
        for k, group in enumerate(self.instructions.groups):
            g = self.mixed[k]
            if self.learns:
                _outer(total.matrices[k], g, columns(state, swapped, group))
            pieces = product(g, p.matrices[k].t()).unflatten(0, (self.tile.sides, -1))
            at = 0
            for term in group.terms:
                piece = pieces[..., at : at + term.width]
                at += term.width
                where = (term.path.l1, group.m, term.path.even)
                source_rows(turned, back, *where).addcmul_(
                    piece, state.weights[:, None, term.place]
                )
                source = source_rows(state.turned, swapped, *where)
                _add_products(weights[:, term.place], piece, source)
        for (degree, m), block in back.items():
            rows(turned[degree], m).sub_(odd(block))
        return turned, weights

    def _weights(self, g: Tensor) -> None:
        """Through the last map of the radial network."""
        half = self.tile.half
        self.total.radial[half] = product(g, self.p.last.t())
        if self.learns:
            self.total.last.add_(product(g.t(), self.p.radial[half].t()))
            self.total.offset.add_(g.sum(0))

    def _ends(self, turned: Sequence[Tensor]) -> None:
        """Turns back, and adds to senders and receivers."""
        edges = self.tile.edges
        first, *rest = (block.flatten(0, 1) for block in turned)
        back = [
            torch.bmm(r[edges].transpose(1, 2), block)
            for r, block in zip(self.framed_edges.rotations, rest, strict=True)
        ]
        both = torch.cat([block.flatten(1) for block in (first, *back)], 1)
        self.total.source.index_add_(0, self.framed_edges.senders[edges], both)
        self.total.target.index_add_(0, self.framed_edges.receivers[edges], both)

    def _turns(
        self, gradients: Sequence[Tensor], turned: Sequence[Tensor], turns: Sequence[Tensor]
    ) -> None:
        """t = D v, so g_D = g_t vᵀ with v = Dᵀ t; and values Dᵀ f, so g_D += f gᵀ."""
        edges = self.tile.edges
        for turn, rotation, g, t in zip(
            turns, self.framed_edges.rotations, turned[1:], self.state.turned[1:], strict=True
        ):
            joined = torch.bmm(g.flatten(0, 1), t.flatten(0, 1).transpose(1, 2))
            turn[edges] = torch.bmm(joined, rotation[edges])
        widths = [g.shape[2] for g in gradients]
        framed = framed_values(self.state, self.p, self.instructions, widths)
        for turn, f, g in zip(turns, framed[1:], gradients[1:], strict=False):
            turn[edges] += torch.bmm(f, g[edges].transpose(1, 2))


def _outer(total: Tensor, g: Tensor, x: Tensor) -> None:
    """Adds gᵀ x over the first two axes: (n, rows, out), (n, rows, in) to (out, in)."""
    total.add_(product(g.flatten(0, 1).t(), x.flatten(0, 1).t()))


def _folded(g: Tensor, m: int) -> Tensor:
    """(n, rows, in) by what :func:`_opened` made -> (n, rows, channels) by G itself."""
    if m == 0:
        return g
    even, swapped = g.chunk(2, 2)
    return even - odd(swapped)


def _add_products(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Adds the sum over sides and rows of a b: (s, h, rows, mul) twice to (h, mul)."""
    for side in range(a.shape[0]):
        for row in range(a.shape[2]):
            total.addcmul_(a[side, :, row], b[side, :, row])
