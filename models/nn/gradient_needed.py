"""Which derivatives a backward pass is after.

Forces are the derivative by the positions alone, but PyTorch tells a Function of our own only
which of its inputs could have a derivative, weights among them, not which of them are wanted now:
the products for the weights' gradients would be computed and thrown away. The engine itself knows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge


def gradient_needed(tensor: Tensor) -> bool:
    """Whether the backward pass under way will use a derivative by ``tensor``.

    To be called within the ``backward`` of a Function; if in doubt the answer is yes.
    """
    if not tensor.requires_grad:
        return False
    try:
        return torch._C._will_engine_execute_node(get_gradient_edge(tensor).node)
    except RuntimeError:  # the engine answers so for a leaf that was itself asked for
        return True
