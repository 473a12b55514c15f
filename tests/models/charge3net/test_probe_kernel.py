"""The fused probe kernel: in Triton's interpreter against PyTorch, and compiled for a GPU.

Triton reads TRITON_INTERPRET when a kernel is defined, so that a process of its own computes the
comparisons: this file, run as a program, prints them as JSON.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from unittest.mock import patch

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule

from neupol_cli.models.charge3net.config import ChargE3NetConfig
from neupol_cli.models.charge3net.kernels.choice import kernels
from neupol_cli.models.charge3net.kernels.probe_blocks import PROBES
from neupol_cli.models.charge3net.kernels.probe_sums import ProbeSums
from neupol_cli.models.charge3net.network import ChargE3Net
from neupol_cli.models.charge3net.tile_evaluator import TileEvaluator

pytest.importorskip("triton", reason="Triton, which the fused probe kernel needs, is not installed")

TOLERANCE = 2e-6  # of the largest density
COMPARISONS = (
    *(f"lmax {degree}" for degree in range(5)),
    "two blocks of channels",
    "spin and a promolecule",
    "movable points, pseudoscalar spin",
    "learned radial functions",
    "a cell smaller than the cutoff",
    "partly periodic",
    "tiles of a small budget",
    "a block just below full",
)


@dataclass(frozen=True)
class Box:
    origin: np.ndarray
    step: np.ndarray
    shape: tuple[int, int, int]


def small(**options):
    torch.manual_seed(0)
    settings = {"species": (1, 6, 8), "mul": 20, "lmax": 1, "layers": 1, "embedding": 6} | options
    network = ChargE3Net(ChargE3NetConfig(**settings)).float().eval()
    for parameter in network.motion.maps:
        torch.nn.init.normal_(parameter, std=0.3)
    if network.promolecule is not None:
        network.promolecule.coefficients[:3].normal_()
    return network


def crystal(pbc=True):
    """A skewed cell with sides below the cutoff."""
    cell = [[2.9, 0.2, 0.0], [-0.9, 2.6, 0.3], [0.4, 0.5, 3.1]]
    places = [[0.1, 0.2, 0.3], [1.4, 1.1, 0.9], [0.7, 2.0, 2.2]]
    return ase.Atoms("COH", places, cell=cell, pbc=pbc)


def scatter(count, atoms):
    """Random probes, one on an atom, one at a cutoff of 4 Angstrom, and three out of reach."""
    box = torch.rand(count - 5, 3, generator=torch.Generator().manual_seed(3)).double()
    first = torch.from_numpy(atoms.positions[:1])
    edge = first + torch.tensor([[2.4, 3.2, 0.0]], dtype=torch.float64)
    far = torch.full((3, 3), 40.0, dtype=torch.float64)
    return torch.cat((3.0 * box - 1.0, first, edge, far))


def operations():
    """Without any kernel for probes: PyTorch's operations."""
    return patch.object(TileEvaluator, "_kernel", lambda evaluator, lmax: None)


def error(work):
    """The largest difference of the kernel's density from PyTorch's, by the largest density."""
    with operations():
        expected = work()
    os.environ["TRITON_INTERPRET"] = "1"
    found = work()
    assert not ProbeSums.failed and found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


def at_points(count, atoms=None, **options):
    network, atoms = small(**options), atoms or molecule("CH3OH")
    features = network.atom_features(atoms)
    return error(lambda: network.density(features, scatter(count, atoms)))


def on_grid(atoms, shape, memory=1 << 30, **options):
    network = small(**options)
    features = network.atom_features(atoms)
    step = np.array([[0.9, 0.1, 0.0], [0.0, 0.8, -0.2], [0.3, 0.0, 1.1]])
    grid = Box(np.array([-1.0, -1.2, -0.7]), step, shape)
    return error(lambda: network.density_grid(features, grid, memory=memory))


def compared():
    moving = {"polarization": "movable"}
    found = [at_points(12, lmax=degree, mul=24) for degree in range(5)]
    found += [
        at_points(12, lmax=0, mul=70),
        at_points(20, spin=True, promolecule=5, layers=2),
        at_points(9, spin=True, pseudoscalar_spin=True, lmax=2, layers=3, **moving),
        at_points(40, encoding="learned"),
        on_grid(crystal(), (3, 2, 2), cutoff=3.2, lmax=2),
        on_grid(crystal((True, False, True)), (2, 2, 2), cutoff=3.2),
        on_grid(molecule("H2O"), (5, 4, 4), memory=1),
        at_points(31, molecule("H2O")),
    ]
    return dict(zip(COMPARISONS, found, strict=True))


def only_empty_probes():
    """No image at all, and images near the tile that reach none of its probes."""
    network = small()
    features = network.atom_features(molecule("H2O"))
    corners = torch.tensor([[6.0, -6.0, 0.0], [-6.0, 6.0, 0.0]], dtype=torch.float64)
    return network.density(features, torch.cat((corners, 40 + corners))).abs().max().item()


def told_of_a_failure():
    """Two structures with a kernel that does not compile: the warnings, and the difference."""
    from neupol_cli.models.charge3net.kernels import probe_kernel

    class Broken:
        def __getitem__(self, grid):
            raise RuntimeError("no C compiler found\nand a page of details")

    network = small()
    features = network.atom_features(molecule("H2O"))
    probes = scatter(12, molecule("H2O"))
    with operations():
        expected = network.density(features, probes)
    os.environ["TRITON_INTERPRET"] = "1"
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logging.getLogger("neupol").addHandler(handler)
    probe_kernel.summed_messages = Broken()
    same = [torch.equal(network.density(features, probes), expected) for _ in range(2)]
    return {"told": told, "same": same}


@pytest.fixture(scope="module")
def interpreted():
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", COMPARISONS)
def test_kernel_is_pytorch(interpreted, name):
    assert 0 < interpreted["errors"][name] <= TOLERANCE


def test_probes_that_nothing_reaches(interpreted):
    assert interpreted["empty"] == 0


def test_a_kernel_that_fails_is_told_of_once_and_replaced(interpreted):
    assert interpreted["failure"]["same"] == [True, True]
    (line,) = interpreted["failure"]["told"]
    assert "RuntimeError: no C compiler found" in line and "\n" not in line


def test_on_a_cpu_in_float64_and_in_training_pytorch_computes(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    single, double = torch.zeros(1), torch.zeros(1, dtype=torch.float64)
    with torch.no_grad():
        assert not kernels(single, 4).probe_sums
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        assert kernels(single, 4).probe_sums and not kernels(single, 5).probe_sums
        assert not kernels(double, 4).probe_sums
        network = small()
        features = network.atom_features(molecule("H2O"))
        assert network.tile_evaluator(features, 1 << 30).kernel is not None
        monkeypatch.setenv("NEUPOL_KERNELS", "0")
        assert not kernels(single, 4).probe_sums
        assert network.tile_evaluator(features, 1 << 30).kernel is None
        monkeypatch.delenv("NEUPOL_KERNELS")
    assert not kernels(single, 4).probe_sums


@pytest.mark.parametrize("degree", range(5))
def test_kernels_compile_for_a_gpu(tmp_path, monkeypatch, degree):
    """To the machine code of compute capability 9.0; no GPU is needed, and float64 stays as is."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from neupol_cli.models.charge3net.kernels import probe_kernel

    blocks = {"PROBES": PROBES}
    code = compiled(probe_kernel.summed_messages, blocks | {"DEGREE": degree, "COLUMNS": 64})
    # A product and a sum rounded at once would move probes across the cutoff.
    assert "fma.rn.f64" not in code and "mul.f64" in code.replace("mul.rn.f64", "mul.f64")
    # Rows of the table are read in pieces of 16 bytes; nothing is spilt to memory.
    assert ".v4.b32" in code and ".local" not in code
    if degree == 0:
        compiled(probe_kernel.summed_atoms, blocks | {"GAUSSIANS": 16})


KINDS = {"*fp64": "probes images reach", "*i32": "atom_index types first near"}
KINDS |= {"*fp32": "source table out exponents coefficients", "fp32": "steps last scale"}
KINDS |= {"i32": "count width channels stride gaussians"}


def compiled(kernel, constants):
    """A kernel's PTX, after its machine code was made too."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = {name: kind for kind, names in KINDS.items() for name in names.split()}
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else kinds[n] for n in names}
    # What a launch finds out: addresses and strides are multiples of 16.
    aligned = [n for n in names if signature[n][0] == "*" or n == "stride"]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(n),): value for n, value in constants.items()},
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in aligned},
    )
    done = triton.compile(
        source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False}
    )
    assert len(done.asm["cubin"]) > 1000
    return done.asm["ptx"]


if __name__ == "__main__":
    answer = {"errors": compared(), "empty": only_empty_probes(), "failure": told_of_a_failure()}
    print(json.dumps(answer))
