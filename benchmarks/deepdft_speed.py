"""DeepDFT's densities and training steps per second, here and in its published implementation.

    python benchmarks/deepdft_speed.py --published PATH [--structure FILE] [--side 40] [--probes N]
    python benchmarks/deepdft_speed.py --published PATH --training [--structure FILE]

Both networks at their published sizes with the same random weights, in one process on one thread,
on a grid around a molecule. PATH holds densitymodel.py and layer.py of
github.com/peterbjorgensen/DeepDFT. The published code is given its edges ready made and outside
the clock, N random points of the grid in batches of 5,000, as its own script takes them; ours
finds its neighbours itself and computes the whole grid. Atoms are encoded in both times. The two
are compared at those N points. ``--training`` times steps of Adam on the squared error of 1,000
random points of each of two molecules, the published batch, with the same weights and points; the
losses of the last steps are compared. Times are CPU seconds of the process, so that other work on
the machine does not count; sides take turns, and the median of each counts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import in_turns

HEAP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
HEAP |= {"MALLOC_TOP_PAD_": "400000000", "OMP_NUM_THREADS": "1"}
MARGIN, CUTOFF, BATCH = 3.6, 4.0, 5000  # Angstrom, Angstrom, probes
PROBES, STEPS = 1000, 2  # of a molecule in a step of training, and steps in a round
SIZES = {"schnet": {"num_interactions": 6}, "painn": {"num_interactions": 3}}
CLASSES = {"schnet": "DensityModel", "painn": "PainnDensityModel"}
EXTRAS = {"gaussian_expansion_step": 0.1, "distance_embedding_size": 30}


@dataclass(frozen=True)
class Grid:
    """origin (3,), step (3, 3) with voxel vectors as rows, Angstrom, and shape."""

    origin: Any
    step: Any
    shape: tuple[int, int, int]

    def points(self) -> Any:
        """(P, 3) Angstrom, the last index fastest."""
        import numpy as np

        index = np.stack(np.unravel_index(np.arange(np.prod(self.shape)), self.shape), 1)
        return self.origin + index @ self.step


def around(atoms: Any, side: int) -> Grid:
    """side^3 points over a molecule's box and its margin."""
    import numpy as np

    low = atoms.positions.min(0) - MARGIN
    span = atoms.positions.max(0) + MARGIN - low
    return Grid(low, np.diag(span / (side - 1)), (side, side, side))


def batches(atoms: Any, probes: Any) -> list[dict[str, Any]]:
    """What the published networks read, for BATCH probes at a time."""
    import numpy as np
    import torch

    def edges(points: Any) -> tuple[Any, Any]:
        """Pairs (atom, point) nearer than the cutoff."""
        apart = np.linalg.norm(points[None] - atoms.positions[:, None], axis=2)
        pairs = np.argwhere(apart < CUTOFF)
        return pairs, apart[tuple(pairs.T)]

    among, lengths = edges(atoms.positions)
    among = among[lengths > 0]
    shared = {
        "nodes": torch.tensor(atoms.numbers),
        "num_nodes": torch.tensor(len(atoms)),
        "atom_xyz": torch.tensor(atoms.positions, dtype=torch.float32),
        "cell": torch.eye(3),
        "atom_edges": torch.tensor(among),
        "num_atom_edges": torch.tensor(len(among)),
        "atom_edges_displacement": torch.zeros(len(among), 3),
    }
    prepared = []
    for part in np.array_split(probes, -(-len(probes) // BATCH)):
        pairs, _ = edges(part)
        pairs = pairs[np.argsort(pairs[:, 1], kind="stable")]  # in its own order: probe by probe
        own = {
            "probe_xyz": torch.tensor(part, dtype=torch.float32),
            "num_probes": torch.tensor(len(part)),
            "probe_edges": torch.tensor(pairs),
            "num_probe_edges": torch.tensor(len(pairs)),
            "probe_edges_displacement": torch.zeros(len(pairs), 3),
        }
        prepared.append({key: value[None] for key, value in (shared | own).items()})
    return prepared


def published_density(model: Any, given: list[dict[str, Any]]) -> Any:
    """The published code: atoms once, then probes batch by batch, as its own script does."""
    import torch

    with torch.no_grad():
        atoms = model.atom_model(given[0])
        atoms = atoms if isinstance(atoms, tuple) else (atoms,)
        return torch.cat([model.probe_model(batch, *atoms).reshape(-1) for batch in given])


def stacked(inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """Several molecules' inputs as the published batch: edges padded with zeros."""
    from torch.nn.utils.rnn import pad_sequence

    def joined(key: str) -> Any:
        return pad_sequence([one[key][0] for one in inputs], batch_first=True)

    import torch

    counts = [key for key in inputs[0] if key.startswith("num_")]
    stacked_counts = {key: torch.cat([one[key] for one in inputs]) for key in counts}
    return stacked_counts | {key: joined(key) for key in inputs[0] if key not in counts}


class Training:
    """Steps of Adam on the squared error, the published recipe without its slow decay."""

    def __init__(self, network: Any, answer: Callable[[], Any], target: Any) -> None:
        import torch

        self.answer, self.target, self.loss = answer, target, 0.0
        self.optimiser = torch.optim.Adam(network.train().parameters(), lr=1e-4)

    def __call__(self) -> None:
        self.optimiser.zero_grad()
        loss = (self.answer().flatten() - self.target).square().mean()
        loss.backward()
        self.optimiser.step()
        self.loss = float(loss.detach())


def train(kind: str, atoms: Any, chosen: argparse.Namespace) -> dict[str, Any]:
    """Both implementations' steps on one batch."""
    import numpy as np
    import torch

    from neupol_cli.models.nn.graph import Graph

    theirs, ours = networks(kind)
    every = around(atoms, chosen.side).points()
    rng = np.random.default_rng(1)
    probes = np.stack([every[rng.choice(len(every), PROBES, replace=False)] for _ in range(2)])
    given = stacked([batches(atoms, points)[0] for points in probes])
    graph = Graph.from_atoms([atoms, atoms], torch.float32)
    places = torch.from_numpy(probes).float()
    target = torch.rand(2 * PROBES, generator=torch.Generator().manual_seed(0))
    sides = (
        Training(theirs, lambda: theirs(given), target),
        Training(ours, lambda: ours(graph, places), target),
    )
    turns = in_turns(dict(zip(("published", "neupol"), sides, strict=True)), chosen.rounds, STEPS)
    return {
        "network": f"deepdft-{kind}",
        "structure": str(atoms.symbols),
        "probe edges": int(given["num_probe_edges"].sum()),
        "published steps/s": round(1 / turns.median("published"), 2),
        "neupol steps/s": round(1 / turns.median("neupol"), 2),
        "ratio": turns.ratio_line("published", "neupol"),
        "losses": [side.loss for side in sides],
    }


def networks(kind: str) -> tuple[Any, Any]:
    """The published network and ours with the same random weights."""
    import densitymodel
    import torch

    from neupol_cli import registry

    torch.manual_seed(0)
    config = {**SIZES[kind], "hidden_state_size": 128, "cutoff": CUTOFF}
    theirs = getattr(densitymodel, CLASSES[kind])(**config).eval()
    ours = registry.from_published(f"deepdft-{kind}", theirs.state_dict(), config | EXTRAS)
    return theirs, ours


def compare(kind: str, atoms: Any, chosen: argparse.Namespace) -> dict[str, Any]:
    """Both implementations of one network on one grid."""
    import numpy as np
    import torch

    theirs, ours = networks(kind)
    grid = around(atoms, chosen.side)
    every = grid.points()
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(len(every), min(chosen.probes, len(every)), replace=False))
    given = batches(atoms, every[rows])
    sides = {
        "published": lambda: published_density(theirs, given),
        "neupol": lambda: ours.density_grid(ours.atom_features(atoms), grid),
    }
    turns = in_turns(sides, chosen.rounds)
    reference, density = turns.results["published"], turns.results["neupol"]
    wrong = (density[torch.from_numpy(rows)] - reference).abs().max() / reference.abs().max()
    rates = len(rows) / turns.median("published"), len(every) / turns.median("neupol")
    return {
        "network": f"deepdft-{kind}",
        "structure": str(atoms.symbols),
        "points": len(every),
        "edges a probe": sum(int(batch["num_probe_edges"]) for batch in given) / len(rows),
        "published probes/s": round(rates[0]),
        "neupol probes/s": round(rates[1]),
        "ratio": round(rates[1] / rates[0], 2),
        "largest difference / largest density": float(wrong),
    }


def main() -> None:
    """Runs what was options for and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--structure", type=Path)
    parser.add_argument("--side", type=int, default=40)
    parser.add_argument("--probes", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--training", action="store_true")
    parser.add_argument("--network", choices=tuple(SIZES), action="append")
    chosen = parser.parse_args()
    if any(os.environ.get(key) != value for key, value in HEAP.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **HEAP})
    sys.path.insert(0, str(chosen.published))
    import ase.build
    import ase.io
    import torch

    torch.set_num_threads(1)
    atoms = ase.io.read(chosen.structure) if chosen.structure else ase.build.molecule("C6H6")
    for kind in chosen.network or SIZES:
        measure = train if chosen.training else compare
        print(json.dumps(measure(kind, atoms, chosen), indent=1), flush=True)


if __name__ == "__main__":
    main()
