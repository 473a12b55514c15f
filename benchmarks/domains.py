"""Writes into a checkpoint what its training structures were like, where it was trained before
checkpoints kept that; weights stay as they are.

    python benchmarks/domains.py qm9.h5 models/weights/qm9.safetensors [--partition paper]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from neupol_cli import checkpoint
from neupol_cli.domain.of_dataset import facts_of_dataset
from neupol_cli.io import hdf5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--partition", default="paper")
    options = parser.parse_args()
    dataset = hdf5.read(options.dataset)
    splits = dataset.splits[options.partition]
    facts = facts_of_dataset(dataset, splits, lambda: None).record()
    for path in options.checkpoints:
        header, tensors = checkpoint.load_file(path)
        fingerprint = header.get("data", {}).get("fingerprint")
        if fingerprint != dataset.fingerprint:
            raise SystemExit(f"{path}: was trained on other data ({fingerprint})")
        plain = {k: v for k, v in header.items() if k not in ("sha256", "format", "kind")}
        checkpoint.write(path, "weights", {**plain, "domain": facts}, tensors)
        print(
            f"{path}: {facts['structures']} structures, {len(facts['surroundings'])} surroundings"
        )


if __name__ == "__main__":
    main()
