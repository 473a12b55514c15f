"""What each kernel brings: a network's work with it and with what would serve without it, in turns.

    OMP_NUM_THREADS=1 python benchmarks/kernels.py [KERNEL ...] [--rounds 15] [--molecules 32]

One process, one thread, the same weights and structures, no dropout; processor seconds of the
fastest call, for others on the machine only ever add to them. ``ratio`` is the time without the
kernel over that with it; ``apart`` is the largest difference of the results, relative to the
largest result. Properties are those of molecules of 10 to 24 atoms: smaller ones cost hardly more
than the calls themselves, whatever a kernel does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from checkouts import density_case, property_case
from harness import in_turns

from neupol_cli.allocator import keep_large_blocks
from neupol_cli.models.deepdft.kernels.updates import PLAIN

Work = Callable[[], Any]
MODELS = "neupol_cli.models"
EXAMPLES = Path(__file__).parents[1] / "examples"
OFF = SimpleNamespace(enabled=lambda: False)  # in place of models/kernels/compiler.py


@dataclass(frozen=True)
class Case:
    """A kernel, some work that uses it, and what takes it away."""

    kernel: str
    work: str
    make: Callable[[], Work]
    without: Callable[[], AbstractContextManager[Any]]


def replaced(place: str, **values: Any) -> Callable[[], AbstractContextManager[Any]]:
    """The choice that ``place`` ("module.name") makes, but for some of its fields."""
    module_name, name = f"{MODELS}.{place}".rsplit(".", 1)
    choose = getattr(import_module(module_name), name)

    def chosen(*inputs: Any) -> Any:
        return choose(*inputs)._replace(**values)

    return lambda: patch(f"{module_name}.{name}", chosen)


def instead(place: str, value: Any) -> Callable[[], AbstractContextManager[Any]]:
    """Something else in the place of a name."""
    return lambda: patch(f"{MODELS}.{place}", value)


def particles() -> Work:
    """A training step's gradients of the n-body network."""
    from neupol_cli import registry

    torch.manual_seed(0)
    network: Any = registry.build("egnn-nbody", {})
    inputs = torch.randn(100, 5, 3), torch.randn(100, 5, 3), torch.randn(100, 5)
    weights = [p for p in network.parameters() if p.requires_grad]

    def work() -> Any:
        gradients = torch.autograd.grad(network(*inputs).square().mean(), weights)
        return torch.stack([g.square().sum() for g in gradients])

    return work


def atoms_alone() -> Work:
    """What ChargE3Net works out once for the grid of benzene."""
    from ase.build import molecule

    from neupol_cli import registry

    torch.manual_seed(0)
    model: Any = registry.build("charge3net", {"species": (1, 6)}).eval()
    benzene = molecule("C6H6")
    return lambda: model.atom_features(benzene).invariants


def affine() -> Work:
    """One map of 128 to 128 features at 30,200 pairs."""
    from neupol_cli.models.nn.linear import product

    x, weight, bias = torch.randn(30200, 128), torch.randn(128, 128), torch.randn(128)
    return torch.no_grad()(lambda: product(x, weight, bias))


def by_weights() -> Work:
    """The derivative of the same map by its weights."""
    from neupol_cli.models.nn.linear import by_weight

    g, x = torch.randn(30200, 128), torch.randn(30200, 128)
    return torch.no_grad()(lambda: by_weight(g, x))


def molecules(count: int) -> list[Any]:
    """Aspirin, caffeine and glycine by turns, no two alike."""
    from ase.io import read

    every = [read(EXAMPLES / f"{name}.xyz") for name in ("aspirin", "caffeine", "glycine")]
    chosen = [every[k % len(every)].copy() for k in range(count)]
    for k, atoms in enumerate(chosen):
        atoms.rattle(0.05, seed=k)
    return chosen


def of(name: str, what: str, count: int) -> Callable[[], Work]:
    """A network's work, as in checkouts.py but for the molecules."""
    if name in DENSITY:
        return lambda: density_case(name, what)
    return lambda: property_case(name, what, count, molecules)


DENSITY = ("charge3net", "deepdft-schnet", "deepdft-painn")
ET = "equivariant-transformer"
TRANSFORMER = "equivariant_transformer.kernels"


def cases(count: int) -> Iterator[Case]:
    """Every kernel with each kind of work that it serves, with so many molecules."""

    def each(kernel: str, name: str, works: str, without: Any) -> Iterator[Case]:
        for what in works.split():
            yield Case(kernel, f"{name} {what}", of(name, what, count), without)

    every, density = "inference training forces learning", "grid training"
    tables = replaced("charge3net.network.kernels", tables=False)
    yield from each("charge3net tables", "charge3net", density, tables)
    probes = replaced("charge3net.tile_evaluator.kernels", probe_loops=None)
    yield from each("charge3net loops of probes", "charge3net", "grid", probes)
    atoms = replaced("charge3net.tensor_product.kernels", neighbour_loops=None)
    yield Case("charge3net loops of atoms", "charge3net, a structure's atoms", atoms_alone, atoms)
    filters = replaced("deepdft.network.kernels", tables=False)
    yield from each("deepdft tables", "deepdft-painn", "grid", filters)
    yield from each("deepdft tables", "deepdft-schnet", density, _schnet_without_tables)
    loops = instead("deepdft.painn.library", lambda like, hidden: None)
    yield from each("deepdft loops of atoms", "deepdft-painn", "training", loops)
    yield from each("deepdft loops of atoms", "painn", "inference training forces", loops)
    formulas = instead("deepdft.painn.updates", lambda *_: PLAIN)
    yield from each("deepdft updates and gates", "deepdft-painn", "training", formulas)
    yield from each("deepdft updates and gates", "painn", "inference training forces", formulas)
    softplus = instead("deepdft.kernels.softplus._library", lambda like: None)
    yield from each("deepdft softplus", "deepdft-schnet", "grid training", softplus)
    sums = replaced("deepdft.kernels.probe_sums.kernels", library=None)
    yield from each("deepdft loops of probes", "deepdft-painn", "grid", sums)
    yield from each("deepdft loops of probes", "deepdft-schnet", "grid", sums)
    fans = instead("dimenet.kernels.choice.compiler", OFF)
    yield from each("dimenet fans", "dimenet", every, fans)
    blocks = instead("distance_transformer.kernels.choice.compiler", OFF)
    yield from each("distance transformer blocks", "distance-transformer", every, blocks)
    summed = instead("egnn.kernels.choice.message_loops.library", lambda like, hidden: None)
    for what in ("inference", "training", "forces"):  # batches that no cache holds
        many = of("egnn", what, 8 * count)
        yield Case("egnn loops of messages", f"egnn {what}, {8 * count} molecules", many, summed)
    layers = replaced("egnn.nbody.nbody_kernels", layers=False)
    yield Case("egnn n-body loops", "egnn-nbody training", particles, layers)
    yield Case("egnn n-body pair messages", "egnn-nbody training", particles, _without_nbody)
    frames = instead("equiformer.geometry.kernels_serve", lambda edges: False)
    yield from each("equiformer frames and tiles", "equiformer", every, frames)
    attention = instead(f"{TRANSFORMER}.attention_compiled.library", lambda state, shape: None)
    yield from each("transformer attention, compiled", ET, every, attention)
    formula = import_module(f"{MODELS}.equivariant_transformer.attention").attention
    plainly = instead("equivariant_transformer.network.attention", formula)
    yield from each("transformer attention, tiles", ET, every, plainly)
    silu = instead("nn.activation._kernel_serves", lambda layer, x: False)
    yield from each("silu of an affine map", "dimenet", "training learning", silu)
    onednn = instead("nn.linear._onednn", lambda: None)  # chosen where MKL is another maker's
    yield Case("affine map by oneDNN", "30,200 x 128 x 128", affine, onednn)
    gram = instead("nn.linear.gram", lambda g, x: None)
    yield Case("gradients of weights", "30,200 x 128 x 128", by_weights, gram)
    yield from each("gradients of weights", "dimenet", "training", gram)


@contextmanager
def _schnet_without_tables() -> Iterator[None]:
    tables = [replaced(f"deepdft.{file}.kernels", tables=False) for file in ("network", "schnet")]
    with tables[0](), tables[1]():
        yield


@contextmanager
def _without_nbody() -> Iterator[None]:
    """Neither loops nor pair messages, against the latter alone: see SECOND_BEST."""
    with replaced("egnn.nbody.nbody_kernels", messages=False, layers=False)():
        yield


# Kernels that serve only where a better one does not: both sides go without that one. oneDNN's
# product is timed on every processor, too, not only on those where it serves.
SECOND_BEST = {
    "affine map by oneDNN": instead("nn.linear._intel", lambda: False),
    "egnn n-body pair messages": replaced("egnn.nbody.nbody_kernels", layers=False),
    "transformer attention, tiles": instead(
        f"{TRANSFORMER}.attention_compiled.library", lambda state, shape: None
    ),
}


def within(enter: Callable[[], AbstractContextManager[Any]], work: Work) -> Work:
    """The work as it is done there."""

    def entered() -> Any:
        with enter():
            return work()

    return entered


def row(case: Case, rounds: int) -> str:
    """Measures a case; its row of the table."""
    torch.manual_seed(0)
    work = case.make()
    best = SECOND_BEST.get(case.kernel)
    sides = {"without": within(case.without, work), "with": within(best, work) if best else work}
    turns = in_turns(sides, rounds)
    old, new = (turns.results[side].detach().double() for side in sides)
    apart = float((old - new).abs().max() / old.abs().max())
    old_time, new_time = (1e3 * turns.fastest(side) for side in sides)
    times = f"{old_time:.2f} | {new_time:.2f} | {old_time / new_time:.2f}"
    return f"| {case.kernel} | {case.work} | {times} | {apart:.0e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kernels", nargs="*", help="first words of kernels; all without any")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--molecules", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    print("| kernel | work | without, ms | with, ms | ratio | apart |\n|---|---|---|---|---|---|")
    for case in cases(options.molecules):
        if not options.kernels or case.kernel.startswith(tuple(options.kernels)):
            print(row(case, options.rounds), flush=True)


if __name__ == "__main__":
    main()
