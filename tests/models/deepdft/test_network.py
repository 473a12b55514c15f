"""DeepDFT's two networks: published values and derivatives, weights, refusals.

What holds of every density network is in tests/contracts.
"""

from __future__ import annotations

from dataclasses import dataclass

import ase
import pytest
import torch

from neupol_cli import registry
from neupol_cli.errors import InputError, UsageError
from neupol_cli.models.nn.graph import Graph

NETWORKS = ("schnet", "painn")
STRUCTURES = ("molecule", "crystal")


@dataclass(frozen=True)
class Case:
    """A published network and one of the structures that it was run on."""

    model: torch.nn.Module
    arrays: dict[str, torch.Tensor]

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.arrays[key]

    @property
    def graph(self) -> Graph:
        count = torch.tensor([len(self["numbers"])])
        cell, pbc = self["cell"][None], self["pbc"][None]
        return Graph.from_arrays(self["numbers"], self["positions"], count, cell, pbc)

    @property
    def atoms(self) -> ase.Atoms:
        arrays = (self[key].numpy() for key in ("numbers", "positions", "cell", "pbc"))
        return ase.Atoms(**dict(zip(("numbers", "positions", "cell", "pbc"), arrays, strict=True)))


@pytest.fixture(scope="module", params=[(n, s) for n in NETWORKS for s in STRUCTURES], ids="-".join)
def case(request, parity) -> Case:
    network, structure = request.param
    published = parity(f"deepdft_{network}")
    model = published.model(f"deepdft-{network}")
    prefix = f"{structure}/"
    found = {k: v for k, v in published.arrays.items() if k.startswith(prefix)}
    return Case(model, {k[len(prefix) :]: torch.from_numpy(v) for k, v in found.items()})


def close(found: torch.Tensor, wanted: torch.Tensor, scale: float = 1.0) -> None:
    torch.testing.assert_close(found.detach(), wanted, rtol=0, atol=1e-11 * scale)


def test_atoms_are_the_published_ones(case) -> None:
    layers = case.model.encode(case.graph).layers
    for k, layer in enumerate(layers, 1):
        close(layer.scalars, case[f"atom_scalars/{k}"])
        if layer.vectors is not None:
            close(layer.vectors, case[f"atom_vectors/{k}"])


def test_the_density_is_the_published_one(case) -> None:
    close(case.model(case.graph, case["probes"][None]), case["density"], 10)


def test_derivatives_of_the_density_are_the_published_ones(case) -> None:
    probes = case["probes"][None, :40].clone().requires_grad_()
    density = case.model(case.graph, probes)
    (gradient,) = torch.autograd.grad(density.sum(), probes, create_graph=True)
    close(gradient[0], case["density_gradient"][:40], 10)
    rows = [torch.autograd.grad(gradient[0, :, k].sum(), probes, retain_graph=True) for k in (0, 1)]
    close(torch.stack([row[0][0] for row in rows], 1), case["density_hessian"][:40, :2], 1e3)


def test_derivatives_on_a_nucleus_are_finite(case) -> None:
    probes = case["positions"][None, :2].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        case.model(case.graph, probes).sum(), probes, create_graph=True
    )
    (second,) = torch.autograd.grad(gradient.sum(), probes)
    assert gradient.isfinite().all() and second.isfinite().all()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_learns_and_sizes_are_the_published_ones(name: str) -> None:
    model = registry.build(f"deepdft-{name}", {"species": list(range(1, 119))})
    # The published table has a row for atomic number zero.
    published = {"schnet": 2_071_681, "painn": 1_487_233}[name]
    assert sum(p.numel() for p in model.parameters()) == published - 128
    small = registry.build(f"deepdft-{name}", {"hidden": 8, "layers": 2})
    water = ase.Atoms("OH2", [[0, 0, 0.1], [0, 0.76, -0.48], [0, -0.76, -0.48]])
    small(Graph.from_atoms([water], torch.float32), torch.randn(1, 50, 3)).square().sum().backward()
    silent = [k for k, p in small.named_parameters() if p.grad is None or not p.grad.any()]
    # A probe begins with zeros, of which the invariant network's first gate makes nothing.
    assert silent == {"schnet": ["probe_layers.0.gate.first.weight"], "painn": []}[name]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="no spin"):
        registry.build("deepdft-painn", {"spin": True})
    model = registry.build("deepdft-schnet", {"hidden": 8, "layers": 1})
    with pytest.raises(InputError, match="atom 1 is Ar"):
        model.atom_features(ase.Atoms("Ar"))
    two = model.prepared(Graph.from_atoms([ase.Atoms("H"), ase.Atoms("C")], torch.float32))
    with pytest.raises(InputError, match="features of 2"):
        model.density(two, torch.zeros(1, 3))
