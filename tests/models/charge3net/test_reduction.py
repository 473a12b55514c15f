"""The exact reduction against the full convolution, built here with e3nn as its authors did."""

from __future__ import annotations

import pytest
import torch
from e3nn import o3
from e3nn.nn import FullyConnectedNet, Gate

from neupol_cli.models.charge3net.config import ChargE3NetConfig
from neupol_cli.models.charge3net.network import ChargE3Net
from neupol_cli.models.nn.graph import Graph

MUL, LMAX, CUTOFF, BASIS, NEIGHBOURS = 24, 2, 4.0, 8, 20
EDGE = o3.Irreps.spherical_harmonics(LMAX)
HIDDEN = [
    (round(MUL / (LMAX + 1) / (2 * degree + 1)), (degree, parity))
    for degree in range(LMAX + 1)
    for parity in (-1, 1)
]


def reached(irreps, irrep):
    return any(o3.Irrep(irrep) in a.ir * b.ir for a in o3.Irreps(irreps) for b in EDGE)


def gate_for(irreps):
    hidden = [(mul, ir) for mul, ir in HIDDEN if reached(irreps, ir)]
    scalars = o3.Irreps([(mul, ir) for mul, ir in hidden if ir[0] == 0])
    gated = o3.Irreps([(mul, ir) for mul, ir in hidden if ir[0] > 0])
    gates = o3.Irreps([(mul, "0e") for mul, _ in gated]).simplify()
    act = {1: torch.nn.functional.silu, -1: torch.tanh}
    act_gates = {1: torch.sigmoid, -1: torch.tanh}
    return Gate(
        scalars,
        [act[ir.p] for _, ir in scalars],
        gates,
        [act_gates[ir.p] for _, ir in gates],
        gated,
    )


class FullConvolution(torch.nn.Module):
    """Every path to every irrep of the output, for senders and receivers of any irreps."""

    def __init__(self, sender, receiver, out):
        super().__init__()
        sender, receiver, out = o3.Irreps(sender), o3.Irreps(receiver), o3.Irreps(out)
        scalar = o3.Irreps("0e")
        self.sc = o3.FullyConnectedTensorProduct(receiver, scalar, out)
        self.lin1 = o3.FullyConnectedTensorProduct(sender, scalar, sender)
        mid, wiring = [], []
        for i, (mul, a) in enumerate(sender):
            for j, (_, b) in enumerate(EDGE):
                for c in a * b:
                    if c in out or c == o3.Irrep("0e"):
                        wiring.append((i, j, len(mid), "uvu", True))
                        mid.append((mul, c))
        mid, order, _ = o3.Irreps(mid).sort()
        wiring = [(i, j, order[k], mode, train) for i, j, k, mode, train in wiring]
        self.tp = o3.TensorProduct(
            sender, EDGE, mid, wiring, internal_weights=False, shared_weights=False
        )
        self.fc = FullyConnectedNet([BASIS, 100, self.tp.weight_numel], torch.nn.functional.silu)
        self.lin2 = o3.FullyConnectedTensorProduct(mid, scalar, out)
        self.lin3 = o3.FullyConnectedTensorProduct(mid, scalar, "0e")

    def forward(self, senders, receivers, source, target, harmonics, basis):
        ones = senders.new_ones(len(senders), 1)
        sent = self.lin1(senders, ones)[source]
        messages = self.tp(sent, harmonics, self.fc(basis))
        ones = receivers.new_ones(len(receivers), 1)
        summed = messages.new_zeros(len(receivers), messages.shape[1])
        summed = summed.index_add(0, target, messages) / NEIGHBOURS**0.5
        angle = 0.1 * self.lin3(summed, ones)
        mask = self.sc.output_mask
        sine = 1 - mask + angle.sin() * mask
        return angle.cos() * self.sc(receivers, ones) + sine * self.lin2(summed, ones)


class FullStack(torch.nn.Module):
    """Convolutions and gates under the published names."""

    def __init__(self, senders, receiver):
        super().__init__()
        self.convolutions, self.gates = torch.nn.ModuleList(), torch.nn.ModuleList()
        self.irreps = []
        for k in range(3):
            gate = gate_for(receiver)
            sender = receiver if senders is None else senders[k]
            self.convolutions.append(FullConvolution(sender, receiver, gate.irreps_in))
            self.gates.append(gate)
            receiver = gate.irreps_out
            self.irreps.append(receiver)


class FullNetwork(torch.nn.Module):
    """Atoms and probes with all their features, as the published network has them."""

    def __init__(self, basis):
        super().__init__()
        self.atom_model = FullStack(None, o3.Irreps("119x0e"))
        self.probe_model = FullStack(self.atom_model.irreps, o3.Irreps("0e"))
        self.probe_model.readout = o3.Linear(self.probe_model.irreps[-1], "0e")
        self.basis = basis

    def edges(self, points, centres, itself):
        apart = points[:, None] - centres[None]
        near = (apart.norm(dim=-1) < CUTOFF) & ~itself
        target, source = near.nonzero(as_tuple=True)
        vectors = apart[target, source]
        harmonics = o3.spherical_harmonics(EDGE, vectors, True, "component")
        return source, target, harmonics, self.basis(vectors.norm(dim=1))

    def forward(self, numbers, positions, probes):
        atoms = torch.nn.functional.one_hot(numbers, 119).to(positions.dtype)
        state = positions.new_zeros(len(probes), 1)
        among = self.edges(positions, positions, torch.eye(len(positions), dtype=torch.bool))
        reach = self.edges(probes, positions, torch.zeros(1, dtype=torch.bool))
        for k in range(3):
            atoms = self.layer(self.atom_model, k, atoms, atoms, among)
            state = self.layer(self.probe_model, k, atoms, state, reach)
        return self.probe_model.readout(state).squeeze(1)

    def layer(self, stack, k, senders, receivers, edges):
        return stack.gates[k](stack.convolutions[k](senders, receivers, *edges))


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    config = ChargE3NetConfig(
        species=tuple(range(119)), mul=MUL, lmax=LMAX, cutoff=CUTOFF, basis_size=BASIS
    )
    template = ChargE3Net(config).double()
    full = FullNetwork(template.basis).double()
    weights = dict(full.state_dict())
    weights["probe_model.basis.mean"] = template.basis.mean
    weights["probe_model.basis.inv_std"] = template.basis.inv_std
    given = {"mul": MUL, "lmax": LMAX, "num_interactions": 3, "cutoff": CUTOFF}
    given |= {"num_basis": BASIS, "num_neighbors": NEIGHBOURS, "spin": False}
    return full, ChargE3Net.from_published(weights, given)


@pytest.fixture(scope="module")
def scene():
    torch.manual_seed(1)
    numbers = torch.tensor([6, 8, 1, 1, 7])
    positions = torch.randn(5, 3, dtype=torch.float64) * 1.3
    probes = torch.randn(40, 3, dtype=torch.float64) * 2
    return numbers, positions, probes


def reduced_density(network, scene):
    numbers, positions, probes = scene
    graph = Graph.from_arrays(numbers, positions, torch.tensor([len(numbers)]))
    return network(graph, probes[None])


def test_reduction_gives_the_density_of_the_full_network(networks, scene):
    full, reduced = networks
    with torch.no_grad():
        expected, found = full(*scene), reduced_density(reduced, scene)
    scale = expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * scale)


def test_what_is_dropped_has_no_gradient_in_the_full_network(networks, scene):
    full, reduced = networks
    for parameter in full.parameters():
        parameter.grad = None
    full(*scene).square().sum().backward()
    live = sum(int((p.grad != 0).sum()) for p in full.parameters() if p.grad is not None)
    total = sum(p.numel() for p in full.parameters())
    kept = reduced_gradients(reduced, scene)
    assert live == sum(int((g != 0).sum()) for g in kept)
    dropped = total - sum(p.numel() for p in reduced.parameters())
    assert live <= total - dropped
    assert dropped > total / 10


def reduced_gradients(reduced, scene):
    for parameter in reduced.parameters():
        parameter.grad = None
    reduced_density(reduced, scene).square().sum().backward()
    return [p.grad for p in reduced.parameters() if p.grad is not None]


def test_gradients_of_what_is_kept_are_those_of_the_full_network(networks, scene):
    full, reduced = networks
    for parameter in full.parameters():
        parameter.grad = None
    full(*scene).square().sum().backward()
    expected = sum(p.grad.square().sum() for p in full.parameters() if p.grad is not None)
    found = sum(g.square().sum() for g in reduced_gradients(reduced, scene))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
