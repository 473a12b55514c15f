"""Movable points: where they start, that they move, how they turn; the doubled neighbour list."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from neupol_cli import registry
from neupol_cli.errors import UsageError
from neupol_cli.models import polarization
from neupol_cli.models.base import Backbone, PropertyConfig
from neupol_cli.models.nn.graph import Edges, Graph
from neupol_cli.models.polarization import movable_edges
from neupol_cli.models.property import PropertyModel
from tests.contracts.conftest import MODES, SMALL

MOVERS = [name for name, modes in MODES.items() if "movable" in modes]


def build(name: str, mode: str):
    torch.manual_seed(0)
    model = registry.build(name, SMALL[name] | {"layers": 3, "polarization": mode}).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def molecule() -> ase.Atoms:
    positions = [[0, 0, 0], [1.2, 0.1, -0.2], [-0.6, 1.0, 0.3], [0.4, -0.9, 0.8]]
    return ase.Atoms("CONH", positions)


def path_of(model, atoms: ase.Atoms) -> torch.Tensor:
    """(layers, A, 3) the movable points."""
    graph = Graph.from_atoms([atoms], torch.float64)
    _, path = model.polarization(model.backbone, graph)
    return torch.stack(path).detach()


@pytest.mark.parametrize("name", MOVERS)
def test_points_start_on_their_atoms_and_leave_them(name: str) -> None:
    path = path_of(build(name, "movable"), molecule())
    np.testing.assert_array_equal(path[0], molecule().positions)
    assert path.shape == (3, 4, 3)
    assert float((path[1:] - path[:1]).norm(dim=-1).min()) > 1e-6


@pytest.mark.parametrize("name", MOVERS)
def test_points_turn_with_the_molecule(name: str) -> None:
    model = build(name, "movable")
    turn = Rotation.random(random_state=1).as_matrix()
    turned = molecule()
    turned.positions = turned.positions @ turn.T + [1.0, 2.0, 3.0]
    wanted = path_of(model, molecule()) @ torch.from_numpy(turn).T + torch.tensor([1.0, 2.0, 3.0])
    np.testing.assert_allclose(path_of(model, turned), wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", MOVERS)
def test_frozen_points_stay_and_cost_the_same_parameters(name: str) -> None:
    frozen, movable, off = (build(name, mode) for mode in ("frozen", "movable", "off"))
    path = path_of(frozen, molecule())
    np.testing.assert_array_equal(path, np.broadcast_to(molecule().positions, path.shape))
    sizes = [sum(p.numel() for p in m.parameters()) for m in (frozen, movable, off)]
    assert sizes[0] == sizes[1] > sizes[2]


@pytest.mark.parametrize("name", MOVERS)
def test_every_projection_is_learned(name: str) -> None:
    """No gradient is zero for want of a path to the answer: nothing that moves is left unread."""
    model = build(name, "movable")
    graph = Graph.from_atoms([molecule()], torch.float64)
    model(graph).sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max()]
    assert silent == []


def everything(model: PropertyModel) -> list[torch.Tensor]:
    """The answer, forces, and gradients of the weights from both."""
    graph = Graph.from_atoms([molecule(), molecule()[1:]], torch.float64)
    values, forces, _ = model.train().derivatives(graph, create_graph=True)
    weights = [p for p in model.parameters() if p.requires_grad]
    by_values = torch.autograd.grad(model.network(graph).sum(), weights, allow_unused=True)
    by_forces = torch.autograd.grad(forces.square().sum(), weights, allow_unused=True)
    return [values, forces, *(g for g in (*by_values, *by_forces) if g is not None)]


@pytest.mark.parametrize("kernels", ["0", "1"])
@pytest.mark.parametrize("mode", ["frozen", "movable"])
@pytest.mark.parametrize("name", MOVERS)
def test_what_is_left_out_changes_nothing(
    name: str, mode: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All four kinds of pairs in the first layer, and states of atoms behind the last."""
    monkeypatch.setenv("NEUPOL_KERNELS", kernels)
    settings = SMALL[name] | {"layers": 3, "polarization": mode}
    if name == "equiformer":
        settings |= {"alpha_drop": 0.0}
    torch.manual_seed(0)
    model = registry.build(name, settings).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    found = everything(model)
    monkeypatch.setattr(Edges, "received_by_moving", lambda edges, points: edges)
    monkeypatch.setattr(polarization, "_coinciding", lambda *_: None)
    wanted = everything(model)
    assert len(found) == len(wanted)
    for ours, plain in zip(found, wanted, strict=True):
        scale = max(1.0, float(plain.detach().abs().max()))
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-10 * scale)


@pytest.mark.parametrize("moved", [0.0, 0.3])
def test_doubled_neighbours_equal_brute_force(moved: float) -> None:
    generator = np.random.default_rng(0)
    several = [ase.Atoms(f"H{n}", generator.uniform(0, 4, (n, 3))) for n in (3, 1, 5)]
    graph = Graph.from_atoms(several, torch.float64)
    moving = graph.positions
    if moved:
        moving = moving + moved * torch.from_numpy(generator.normal(size=(9, 3)))
    edges = movable_edges(graph, moving, 2.0, 0.5)
    assert (edges.coinciding is None) == bool(moved)
    assert edges.first_moving == int((edges.receivers < 9).sum())
    points = torch.cat((graph.positions, moving))
    owner = torch.cat((graph.batch, graph.batch))
    near = (torch.cdist(points, points) < 2.0) & (owner[:, None] == owner)
    near.fill_diagonal_(False)
    wanted = set(map(tuple, near.nonzero().tolist()))
    found = list(zip(edges.receivers.tolist(), edges.senders.tolist(), strict=True))
    assert set(found) == wanted
    assert len(found) == len(wanted)
    assert edges.receivers.tolist() == sorted(edges.receivers.tolist())
    vectors = points[edges.senders] - points[edges.receivers]
    np.testing.assert_allclose(edges.vectors, vectors, rtol=0, atol=1e-14)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(UsageError, match="off, frozen, movable"):
        registry.build("egnn", {"polarization": "sideways"})


@pytest.mark.parametrize("mode", ["frozen", "movable"])
def test_a_network_without_vectors_is_refused(mode: str) -> None:
    class Invariant(Backbone):
        """A network that only says what every one must."""

        def __init__(self, config: PropertyConfig) -> None:
            super().__init__(config)
            self.layers = torch.nn.ModuleList((torch.nn.Identity(), torch.nn.Identity()))

    with pytest.raises(UsageError, match="Invariant has nothing that moves points"):
        PropertyModel(Invariant(PropertyConfig(polarization=mode)))


OTHER_MODES = [
    (name, mode)
    for name, modes in MODES.items()
    for mode in ("off", "frozen", "movable")
    if mode not in modes
]


@pytest.mark.parametrize(("name", "mode"), OTHER_MODES)
def test_a_mode_without_contracts_is_refused(name: str, mode: str) -> None:
    with pytest.raises(UsageError):
        registry.build(name, SMALL[name] | {"polarization": mode})
