"""The spherical atoms of a density network, fitted to its data and to free atoms.

Least squares over points of training structures. A free atom of each element counts as one more
structure, so that an element that few structures have is about what it is by itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from neupol_cli.charges.free_atoms import FreeAtom, free_atom
from neupol_cli.errors import InputError
from neupol_cli.models.density.images import fractional_bounds, periodic_images
from neupol_cli.models.density.model import DensityModel, SphericalAtoms
from neupol_cli.models.density.padded_edges import padded_edges
from neupol_cli.models.nn.graph import Graph
from neupol_cli.training.arrays import Arrays, sent
from neupol_cli.training.density_points import Draw, Grids

POINTS, STRUCTURES = 2000, 256  # of each structure, and the most structures, of the fit
NODES = 400  # distances from a free atom


@torch.no_grad()
def fit(
    model: DensityModel,
    arrays: Arrays,
    grids: Grids,
    train: Tensor,
    valence: Mapping[int, float],
    seed: int,
) -> None:
    """Fits a model's spherical atoms to random points of training structures.

    Args:
        model: has a promolecule.
        arrays: the structures.
        grids: their densities.
        train: (N,) those to fit to, on the host.
        valence: electrons that an atom of each element brings.
        seed: of the points.
    """
    assert model.promolecule is not None
    device = grids.values.device
    generator = torch.Generator(device=device).manual_seed(seed)
    order = torch.randperm(len(train), generator=generator, device=device).cpu()
    design, density = [], []
    for some in train[order[:STRUCTURES]].split(16):
        graph, _ = arrays.graph(some)
        chosen = sent(some, device)
        rows, _ = Draw(grids, 0.0)(chosen, POINTS, generator)
        design.append(_shells(model, graph, grids.points(chosen, rows)))
        truth = grids.values[rows.reshape(-1)]
        density.append(truth[:, 0] if truth.dim() == 2 else truth)
    for column, atom in known(model.config.species, valence).items():
        shells, values = _alone(model.promolecule, model.config.cutoff, atom, density[0])
        rows_of_atom = shells.new_zeros(len(shells), len(model.config.species), shells.shape[1])
        rows_of_atom[:, column] = shells
        design.append(rows_of_atom.flatten(1))
        density.append(values)
    model.promolecule.fit(torch.cat(design), torch.cat(density))


def known(species: tuple[int, ...], valence: Mapping[int, float]) -> dict[int, FreeAtom]:
    """The free atoms of elements, by their columns, as far as there are any with these electrons.

    Args:
        species: S atomic numbers.
        valence: electrons that each element brings in the data's densities.
    """
    found = {}
    is_valence = any(electrons < number for number, electrons in valence.items())
    for column, number in enumerate(species):
        try:
            atom = free_atom(number, is_valence)
        except InputError:
            continue
        if atom.electrons == valence.get(number):
            found[column] = atom
    return found


def _alone(
    atoms: SphericalAtoms, cutoff: float, atom: FreeAtom, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Shells (R, K) and density (R,) at distances from a free atom, weighed as the points of a
    structure are that fill the ball of the cutoff."""
    radii = cutoff * (np.arange(NODES) + 0.5) / NODES
    weights = np.sqrt(POINTS * 3 * radii**2 / (NODES * cutoff**2))
    squared = torch.from_numpy(radii**2).to(like)
    scale = torch.from_numpy(weights).to(like)
    values = torch.from_numpy(atom.density(radii)).to(like)
    return atoms.shells(squared) * scale[:, None], values * scale


def _shells(model: DensityModel, graph: Graph, probes: Tensor) -> Tensor:
    """(B P, species x Gaussians): the shells summed over each structure's atoms of an element."""
    assert model.promolecule is not None
    cutoff, species = model.config.cutoff, len(model.config.species)
    images = periodic_images(graph, cutoff, *fractional_bounds(graph, probes))
    edges = padded_edges(graph, images, graph.positions, probes, cutoff)
    shells = model.promolecule.shells(edges.vectors.square().sum(1)) * edges.is_edge[:, None]
    types = model.types(graph.numbers).repeat_interleave(edges.width)
    total = shells.new_zeros(probes.shape[0] * probes.shape[1] * species, shells.shape[1])
    total.index_add_(0, edges.receivers * species + types, shells)
    return total.view(-1, species * shells.shape[1])
