"""Which of EGNN's kernels serve: the one place where that is decided, for both its networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from neupol_cli.models.egnn import messages as plain
from neupol_cli.models.egnn.kernels import message_tiles, nbody_step
from neupol_cli.models.egnn.kernels.nbody_step import Constants
from neupol_cli.models.egnn.messages import MessageInputs
from neupol_cli.models.kernels import compiler


class Kernels(NamedTuple):
    """What serves for the function of the same name in messages.py."""

    summed_messages: Callable[[MessageInputs, Tensor, Tensor], Tensor]


class NBodyKernels(NamedTuple):
    """What may stand in for the formulas of nbody.py.

    Attributes:
        messages: sums of messages, and phi_x, may come from pair_messages.py.
        layers: whole layers may be the compiled operation of nbody_step.py.
    """

    messages: bool
    layers: bool


def kernels(forces_are_learnt: bool) -> Kernels:
    """For molecules: tiles; the plain formula if the environment says ``NEUPOL_KERNELS=0``.

    Args:
        forces_are_learnt: derivatives of derivatives follow, which tiles have from the plain
            formula: made twice over, they take a third longer.
    """
    if forces_are_learnt or not compiler.enabled():
        return Kernels(plain.summed_messages)
    return Kernels(message_tiles.summed_messages)


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
