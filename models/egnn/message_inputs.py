"""What the message phi_e of a layer reads: the table between the network and its kernels."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class MessageInputs(NamedTuple):
    """L[h_i, h_j, e] = A h_i + B h_j + C e with its maps of h already taken, and phi_e's weights.

    E edges, P points, H features, s numbers a distance.

    Attributes:
        received, sent: (P, H) A h + c and B h.
        encoded: (E, s) encoded distances e.
        to_distance: (H, s) C.
        weight, bias: (H, H), (H,) phi_e's second map.
        attention, attention_bias: (1, H), (1,).
        envelope: (E, 1), or None without a cutoff.
    """

    received: Tensor
    sent: Tensor
    encoded: Tensor
    to_distance: Tensor
    weight: Tensor
    bias: Tensor
    attention: Tensor
    attention_bias: Tensor
    envelope: Tensor | None

    def select(self, edges: slice) -> MessageInputs:
        """The same for these edges only."""
        envelope = None if self.envelope is None else self.envelope[edges]
        return self._replace(encoded=self.encoded[edges], envelope=envelope)
