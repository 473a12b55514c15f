"""Which of EGNN's kernels serve: the one place where that is decided, for both its networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor

from neupol_cli.models.egnn import messages as plain
from neupol_cli.models.egnn.kernels import message_loops, nbody_step
from neupol_cli.models.egnn.kernels.nbody_step import Constants
from neupol_cli.models.egnn.messages import MessageInputs, PushInputs
from neupol_cli.models.kernels import compiler


class Kernels(NamedTuple):
    """What serves for the functions of the same names in messages.py."""

    summed_messages: Callable[[MessageInputs, Tensor, Tensor], Tensor]
    sums_and_pushes: Callable[[MessageInputs, PushInputs, Tensor, Tensor], tuple[Tensor, Tensor]]


class NBodyKernels(NamedTuple):
    """What may stand in for the formulas of nbody.py.

    Attributes:
        messages: sums of messages, and phi_x, may come from pair_messages.py.
        layers: whole layers may be the compiled operation of nbody_step.py.
    """

    messages: bool
    layers: bool


def kernels(like: Tensor, hidden: int, forces_are_learnt: bool) -> Kernels:
    """For molecules: compiled loops; the plain formula where none serve, on a GPU too, and if the
    environment says ``NEUPOL_KERNELS=0``.

    Args:
        like: of the type and on the device of the features.
        hidden: their number H.
        forces_are_learnt: derivatives of derivatives follow, which loops have from the plain
            formula: made twice over, they take a third longer.
    """
    loops = None if forces_are_learnt else message_loops.library(like, hidden)
    if loops is None:
        return Kernels(plain.summed_messages, plain.sums_and_pushes)
    return Kernels(
        partial(message_loops.summed_messages, loops),
        partial(message_loops.sums_and_pushes, loops),
    )


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
