"""What a geometry made from a SMILES costs in accuracy: unseen molecules of QM9, predicted from
their own DFT geometries and from their SMILES.

    neupol data qm9 -o qm9.h5
    OMP_NUM_THREADS=1 python benchmarks/smiles.py qm9.h5 [-m qm9] [--count 1000]

Printed are mean absolute errors and the shares of labels within 90 % intervals, of all molecules
that RDKit could build, and of those whose SMILES settles all stereocentres: QM9's do not tell
stereoisomers apart, so that the others are often built as another one.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms

from neupol_cli import registry
from neupol_cli.errors import InputError
from neupol_cli.io import hdf5, said, structures
from neupol_cli.models.property import UNCERTAINTY

TARGETS = ("U0", "homo", "lumo", "mu", "alpha", "zpve")


def smiles_of(wanted: set[int]) -> dict[int, str]:
    """QM9's number of a molecule -> its SMILES, from the package qm9pack."""
    package = importlib.util.find_spec("qm9pack")
    assert package is not None and package.submodule_search_locations is not None
    found = {}
    for path in Path(package.submodule_search_locations[0]).glob("data/qm9_part*.csv"):
        with path.open(newline="") as lines:
            rows = csv.DictReader(lines)
            found |= {int(r["Index"]): r["SMILES"] for r in rows if int(r["Index"]) in wanted}
    return found


def built(words: list[str]) -> Iterator[tuple[int, Atoms]]:
    """The structures that RDKit builds, with their places in the list."""
    text, errors = io.StringIO("\n".join(["smiles", *words])), list[InputError]()
    read = structures.read(["-"], "skip", text, errors.append, doubts_told=False)
    for label, atoms in read:
        yield int(label.removeprefix("-#")), atoms
    for error in errors[:3]:
        print(error)


def is_settled(atoms: Atoms) -> bool:
    return not any("stereoisomers" in doubt for doubt in atoms.info.get(said.DOUBTS, ()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("-m", "--model", default="qm9")
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    dataset = hdf5.read(options.dataset)
    chosen = dataset.splits["paper"]["test"][: options.count]
    assert dataset.ids is not None
    words = smiles_of({int(dataset.ids[k]) for k in chosen})
    start = time.perf_counter()
    made = dict(built([words[int(dataset.ids[k])] for k in chosen]))
    seconds = time.perf_counter() - start
    print(f"{len(made)} of {len(chosen)} built, {1000 * seconds / len(chosen):.1f} ms each")
    own = [dataset.atoms(int(chosen[k])) for k in made]
    model = registry.load_property(options.model)
    answers = {"DFT": model.predict(own), "SMILES": model.predict(list(made.values()))}
    settled = np.array([is_settled(atoms) for atoms in made.values()])
    print(f"stereocentres are settled in {settled.sum()}")
    for name in TARGETS:
        truth = dataset.targets[name].values[chosen[list(made)]]
        for source, answer in answers.items():
            miss, half = np.abs(answer[name] - truth), answer[name + UNCERTAINTY]
            shares = [f"{100 * np.mean((miss <= half)[rows]):.0f} %" for rows in (..., settled)]
            errors = [f"{miss[rows].mean():.4f}" for rows in (..., settled)]
            unit = dataset.targets[name].unit
            print(f"{name:6}{unit:8}{source:8}error {errors[0]} ({errors[1]}), "
                  f"within {shares[0]} ({shares[1]})")  # fmt: skip


if __name__ == "__main__":
    main()
