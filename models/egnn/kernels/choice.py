"""Which of EGNN's kernels serve: the one place where that is decided, for both its networks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from neupol_cli.models.egnn import messages as plain
from neupol_cli.models.egnn.kernels import message_tiles, nbody_step
from neupol_cli.models.egnn.kernels.nbody_step import Constants
from neupol_cli.models.egnn.messages import MessageInputs
from neupol_cli.models.kernels import compiler


class NBodyKernels(NamedTuple):
    """What may stand in for the formulas of nbody.py.

    Attributes:
        messages: sums of messages, and phi_x, may come from pair_messages.py.
        layers: whole layers may be the compiled operation of nbody_step.py.
    """

    messages: bool
    layers: bool


def summed_messages(p: MessageInputs, receivers: Tensor, senders: Tensor) -> Tensor:
    """The function of the same name in messages.py, for molecules.

    Tiles on a CPU where no gradient is recorded; the plain formula elsewhere, and if the
    environment says ``NEUPOL_KERNELS=0``.
    """
    recorded, on_cpu = torch.is_grad_enabled(), p.received.device.type == "cpu"
    if compiler.enabled() and on_cpu and not recorded:
        return message_tiles.summed_messages(p, receivers, senders)
    return plain.summed_messages(p, receivers, senders)


def nbody_kernels(constants: Constants, hidden: int) -> NBodyKernels:
    """For particles: compiled layers on a CPU with a compiler, if no gradient by the inputs is
    wanted; nothing if the environment says ``NEUPOL_KERNELS=0``.

    Args:
        constants: positions, charges and velocities as given.
        hidden: H.
    """
    if not compiler.enabled():
        return NBodyKernels(False, False)
    constant = not any(x.requires_grad for x in constants)
    loops = nbody_step.library(constants[0], hidden) if constant else None
    return NBodyKernels(True, loops is not None)
