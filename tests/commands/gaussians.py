"""An analytic model in place of a network, and ``neupol density`` with it in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

from neupol_cli import app, registry
from neupol_cli.io.volumetric import Grid
from neupol_cli.models.density.model import DensityModel

WATER = "3\nwater\nO 0 0 0.1173\nH 0 0.7572 -0.4692\nH 0 -0.7572 -0.4692\n"
VALENCE = {1: 1.0, 6: 4.0, 8: 6.0}
# On hydrogen fewer electrons than its valence, on oxygen more: polar, and two per cent too few.
EXCESS = {1: 0.76, 6: 3.9, 8: 6.32}


@dataclass
class Settings:
    species: tuple[int, ...] = (1, 6, 8)
    spin: bool = False
    cutoff: float = 4.0


class Gaussians(DensityModel):
    """Gaussian atoms: ``EXCESS`` electrons each, exponent 3 / Angstrom^2."""

    def __init__(self) -> None:
        super().__init__()
        self.config: Any = Settings()
        self.header = {"model": "charge3net", "valence": {"H": 1, "C": 4, "O": 6}}
        self.budgets: list[int] = []
        self.fails_above = 1 << 60

    def atom_features(self, atoms: Atoms) -> Atoms:
        return atoms

    def density(self, features: Atoms, probes: Tensor) -> Tensor:
        points = probes.double()
        total = torch.zeros(len(points), dtype=torch.float64)
        shifts = _shifts(features)
        for number, position in zip(features.numbers, features.positions, strict=True):
            for shift in shifts:
                squared = ((points - torch.from_numpy(position + shift)) ** 2).sum(1)
                total += EXCESS[int(number)] * (3 / np.pi) ** 1.5 * torch.exp(-3 * squared)
        return torch.stack([total, total / 4], 1) if self.config.spin else total

    def density_grid(self, features: Atoms, grid: Grid, memory: int, progress: Any) -> Tensor:
        self.budgets.append(memory)
        if memory > self.fails_above:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        progress(grid.size, grid.size)
        return self.density(features, torch.from_numpy(grid.points())).float()


def _shifts(atoms: Atoms) -> np.ndarray:
    if not atoms.pbc.any():
        return np.zeros((1, 3))
    counts = np.array(np.meshgrid(*[range(-2, 3)] * 3)).reshape(3, -1).T
    return counts @ atoms.cell.array


def in_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gaussians:
    """The model that any name stands for now, in a folder with water.xyz."""
    found = Gaussians()
    monkeypatch.setattr(registry, "load", lambda *arguments: found)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "water.xyz").write_text(WATER)
    return found


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = app._run(["density", *arguments, "-m", "stand-in"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def result(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)
