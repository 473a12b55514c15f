"""ChargE3Net: published values, the exact reduction, symmetry, periodicity, tiles, tables."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from neupol_cli.errors import BadInput, Refused
from neupol_cli.models.charge3net import ChargE3Net, ChargE3NetConfig, atom_irreps
from neupol_cli.models.graph import Graph

DATA = Path(__file__).parents[1] / "data" / "parity"
FILES = ("molecule", "crystal", "spin_nonplanar")


def weights(data):
    return {k[8:]: torch.from_numpy(data[k]) for k in data.files if k.startswith("weights/")}


def published(data):
    return ChargE3Net.from_published(weights(data), json.loads(str(data["config"])))


def graph_of(data):
    arrays = [torch.from_numpy(data[k]) for k in ("numbers", "positions", "cell", "pbc")]
    count = torch.tensor([len(arrays[0])])
    return Graph.from_arrays(arrays[0], arrays[1], count, arrays[2][None], arrays[3][None])


def flat(features, irreps):
    """Our features in the published layout, zero where we leave an irrep out."""
    some = next(iter(features.values()))
    blocks = [
        features[k].transpose(1, 2).flatten(1)
        if k in features
        else some.new_zeros(len(some), mul * (2 * k[0] + 1))
        for k, mul in irreps.items()
    ]
    return torch.cat(blocks, 1)


@pytest.mark.parametrize("name", FILES)
def test_published_weights_give_the_published_density(name):
    data = np.load(DATA / f"charge3net_{name}.npz")
    network = published(data)
    with torch.no_grad():
        density = network(graph_of(data), torch.from_numpy(data["probes"])[None])
    reference = torch.from_numpy(data["density"])
    scale = reference.abs().max().item()
    torch.testing.assert_close(density, reference, rtol=0, atol=1e-10 * scale)


@pytest.mark.parametrize("name", FILES)
def test_published_weights_give_the_published_atom_features(name):
    data = np.load(DATA / f"charge3net_{name}.npz")
    network = published(data)
    with torch.no_grad():
        layers = network.encode(graph_of(data)).layers
    for n, (ours, irreps) in enumerate(zip(layers, atom_irreps(network.config)[1:], strict=True)):
        reference = torch.from_numpy(data[f"atom_features/{n}"])
        found = flat(ours, irreps)
        if n == len(layers) - 1 and not network.config.spin:
            # The last layer keeps the natural parity only: nobody reads the rest.
            kept = flat({k: torch.ones_like(v) for k, v in ours.items()}, irreps)
            reference = reference * kept
        scale = reference.abs().max().item()
        torch.testing.assert_close(found, reference, rtol=0, atol=1e-10 * scale)


def test_dropped_weights_are_said_to_be(caplog):
    data = np.load(DATA / "charge3net_molecule.npz")
    with caplog.at_level(logging.INFO, logger="neupol"):
        network = published(data)
    kept = sum(p.numel() for p in network.parameters())
    total = sum(v.size for k, v in data.items() if k.endswith(".weight"))
    assert f"{total - kept} of {total} published weights" in caplog.text


@pytest.mark.parametrize("wrapped", ["model", "state_dict"])
def test_both_forms_of_published_checkpoint(wrapped):
    data = np.load(DATA / "charge3net_molecule.npz")
    plain = weights(data)
    prefix = "network." if wrapped == "state_dict" else ""
    checkpoint = {wrapped: {prefix + k: v for k, v in plain.items()}, "epoch": 3}
    given = {"num_neighbors": 20, "cutoff": 4.0}
    network = ChargE3Net.from_published(checkpoint, given)
    for a, b in zip(network.parameters(), published(data).parameters(), strict=True):
        assert torch.equal(a, b)


def test_published_weights_of_another_size_are_refused():
    data = np.load(DATA / "charge3net_molecule.npz")
    config = json.loads(str(data["config"])) | {"mul": 44}
    with pytest.raises(Refused, match="numbers, its arguments give"):
        ChargE3Net.from_published(weights(data), config)


def test_unknown_element_is_named():
    network = ChargE3Net(ChargE3NetConfig(species=(1, 8), mul=10, lmax=1, layers=1))
    graph = Graph.from_arrays(torch.tensor([8, 1, 6]), torch.rand(3, 3), torch.tensor([3]))
    with pytest.raises(BadInput, match="atom 3 has atomic number 6"):
        network.encode(graph)
