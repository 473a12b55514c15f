"""Where a structure's dynamics stands, bit for bit: it goes on as if it had never stopped."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from neupol_cli import checkpoint
from neupol_cli.errors import CheckpointError, InputError
from neupol_cli.io import soundness
from neupol_cli.io.said import DOUBTS

if TYPE_CHECKING:
    from ase import Atoms

DAMAGE = (AttributeError, KeyError, RecursionError, TypeError, ValueError)  # of a tree from a file


@dataclass
class State:
    """Of one structure.

    Attributes:
        label: what messages call it.
        atoms: with places, momenta, cell and constraints.
        random: the generator of its random numbers.
        step: how many were made.
        integrator: what ASE's dynamics keeps.
        sizes: bytes of the trajectory and the log at this step; what is behind them goes.
        doubts: that it began with.
    """

    label: str
    atoms: Atoms
    random: np.random.Generator
    step: int = 0
    integrator: dict[str, torch.Tensor] = field(default_factory=dict)
    sizes: tuple[int, int] = (0, 0)
    doubts: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Writes it, whole or not at all; errors as ``files.atomic``."""
        from ase.io.jsonio import encode

        plain = self.atoms.copy()
        plain.info.pop(DOUBTS, None)  # they are among the doubts
        tree = {
            "label": self.label,
            "atoms": encode(plain),  # numbers as text that is read back to the bit
            "random": json.dumps(self.random.bit_generator.state),
            "step": self.step,
            "integrator": self.integrator,
            "sizes": self.sizes,
            "doubts": self.doubts,
        }
        checkpoint.save_state(path, tree)

    @classmethod
    def load(cls, path: Path) -> State:
        """Reads it.

        Raises:
            StorageError, CheckpointError: as ``checkpoint.load_state``.
        """
        from ase.io.jsonio import decode

        tree = checkpoint.load_state(path)
        random = np.random.default_rng()
        try:
            random.bit_generator.state = json.loads(tree["random"])
            atoms: Atoms = decode(tree["atoms"])
            soundness.check_places(atoms, tree["label"])
            sizes = int(tree["sizes"][0]), int(tree["sizes"][1])
            kept = {name: value.double() for name, value in tree["integrator"].items()}
            rest = int(tree["step"]), kept, sizes, tuple(tree["doubts"])
        except (*DAMAGE, InputError) as error:
            raise CheckpointError(f"{path}: is no state of `neupol md`: {error}") from error
        return cls(tree["label"], atoms, random, *rest)
