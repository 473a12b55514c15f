"""How a distance enters, on QM9: EGNN and DimeNet++ at an equal number of steps.

    neupol data qm9 -o qm9.h5
    OMP_NUM_THREADS=1 python benchmarks/encodings.py qm9.h5 --out runs/encodings

Table 2 of Gao et al. 2022 in small: each network with its own description of a distance (r^2; a
Bessel basis and spherical harmonics), with a perceptron, with a learned table, and with one kept
smooth. Four targets share a trunk, so that one run answers for all. What tables become is in
`tables.py`.
"""

from __future__ import annotations

from pathlib import Path

import study

TARGETS = ("U0", "homo", "mu", "r2")
ENCODINGS = ("own", "mlp", "learned", "smooth")
NETWORKS = {
    "egnn": ("--set", "hidden=64", "--set", "layers=4", "--set", "encoding_range=12"),
    "dimenet": (
        *("--set", "hidden=64", "--set", "layers=3", "--set", "triplet=32"),
        *("--set", "output=128"),
    ),
}
CHOSEN = {
    "own": (),
    "mlp": ("--encoding", "mlp"),
    "learned": ("--encoding", "learned"),
    "smooth": ("--encoding", "learned", "--smoothness", 0.01),
}
# Table 2 (own, mlp, learned, smooth): U0 and homo in meV, mu in D, r2 in bohr^2.
PAPER = {
    ("egnn", "U0"): "11, 10, 9, 9",
    ("egnn", "homo"): "29, 35, 26, 27",
    ("egnn", "mu"): ".029, .027, .027, .023",
    ("egnn", "r2"): ".106, .122, .086, .091",
    ("dimenet", "U0"): "7, 10, 7, 7",
    ("dimenet", "homo"): "27, 30, 26, 24",
    ("dimenet", "mu"): ".032, .035, .030, .028",
    ("dimenet", "r2"): ".334, .286, .260, .260",
}


def runs(data: Path, steps: dict[str, int]) -> list[study.Run]:
    """A training a network and encoding."""
    common = ("--batch-size", 32, "--lr", 0.001, "--warmup", 200, "--clip", 2, "--ema", 0.995)
    limits = {
        name: ("--steps", count, "--valid-every", count, *common) for name, count in steps.items()
    }
    return [
        study.Run(
            f"{network}-{encoding}",
            (
                *(network, data, "--target", ",".join(TARGETS)),
                *(*limits[network], *sizes, *CHOSEN[encoding]),
            ),
        )
        for network, sizes in NETWORKS.items()
        for encoding in ENCODINGS
    ]


def report(results: study.Results) -> None:
    """The table of what has been trained so far."""
    print("| network | target | own | mlp | learned | smooth | published |")
    print("|---|---|---|---|---|---|---|")
    for network in NETWORKS:
        row = [results.get(f"{network}-{encoding}") for encoding in ENCODINGS]
        for target in TARGETS:
            errors = [None if result is None else result["test"][target] for result in row]
            cells = " | ".join("-" if e is None else f"{e['value']:.4g}" for e in errors)
            unit = next((e["unit"] for e in errors if e is not None), "")
            print(f"| {network} | {target}, {unit} | {cells} | {PAPER[network, target]} |")


def main() -> None:
    parser = study.options(__doc__ or "", "runs/encodings")
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=2500, help="of EGNN")
    parser.add_argument("--dimenet-steps", type=int, default=1500)
    options = parser.parse_args()
    steps = {"egnn": options.steps, "dimenet": options.dimenet_steps}
    study.conduct(runs(options.data, steps), options, report)


if __name__ == "__main__":
    main()
