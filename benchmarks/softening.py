"""What of Neural Polarization's gain is its singularity: movable points, softened and as published.

    neupol data qm9 -o qm9.h5
    OMP_NUM_THREADS=1 python benchmarks/softening.py qm9.h5 --out runs/softening
    OMP_NUM_THREADS=1 python benchmarks/softening.py qm9.h5 --backbone equiformer --steps 400 \\
        --out runs/softening-equiformer

A backbone on targets of QM9: one point an atom, a second one that stays, and movable points whose
direction from their atom appears at once (softening 0, the published formula) or within a quarter
and half an Angstrom. All else equal, several seeds; means and standard errors,
energies in meV.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import study

# What each learns, with which settings. Equiformer's targets are those of the paper's Table 3.
BACKBONES = {
    "equivariant-transformer": (
        ("U0",),
        ("--batch-size", 32, "--lr", 0.001, "--set", "hidden=64", "--set", "layers=4"),
    ),
    "equiformer": (
        ("mu", "homo", "U0"),
        (
            *("--batch-size", 16, "--lr", 0.001, "--set", "layers=3", "--set", "alpha_drop=0"),
            *("--set", "irreps=32x0e+16x1e+8x2e", "--set", "head_irreps=8x0e+4x1e+2x2e"),
            *("--set", "mlp_irreps=96x0e+48x1e+24x2e", "--set", "feature=128"),
            *("--set", "encoding_size=32"),
        ),
    ),
}
# Mode, and within how many Angstrom directions are softened. What has one point an atom, or one
# that stays, is softened as new models are.
VARIANTS = {
    "off": ("off", 0.5),
    "frozen": ("frozen", 0.5),
    "movable, as published": ("movable", 0.0),
    "movable, within 0.25": ("movable", 0.25),
    "movable, within 0.5": ("movable", 0.5),
}


def name_of(variant: str, seed: int) -> str:
    """A run's, which is also that of a folder."""
    mode, softening = VARIANTS[variant]
    return f"{mode}-{softening}-seed{seed}"


def runs(options: argparse.Namespace) -> list[study.Run]:
    """A training a variant and seed, seed after seed."""
    targets, settings = BACKBONES[options.backbone]
    common = (
        *(options.backbone, options.data, "--target", ",".join(targets), "--steps", options.steps),
        *("--warmup", 100, "--clip", 2, "--ema", 0.995, "--valid-every", options.steps),
        *settings,
    )
    return [
        study.Run(
            name_of(variant, seed),
            (*common, "--polarization", mode, "--set", f"softening={softening}", "--seed", seed),
        )
        for seed in range(options.seeds)
        for variant, (mode, softening) in VARIANTS.items()
    ]


def report(results: study.Results) -> None:
    """The tables of what has been trained so far: errors, and each seed's against off."""
    for target in next(iter(results.values()), {"test": {}})["test"]:
        print(f"| {target} | seeds | error | against off |\n|---|---|---|---|")
        tested = {name: r["test"][target] for name, r in results.items()}
        factor = 1000 if next(iter(tested.values()))["unit"] == "eV" else 1
        errors = {name: factor * float(error["value"]) for name, error in tested.items()}
        for variant in VARIANTS:
            seeds = [k for k in range(len(errors)) if name_of(variant, k) in errors]
            own = [errors[name_of(variant, k)] for k in seeds]
            both = [k for k in seeds if name_of("off", k) in errors]
            ratios = [errors[name_of(variant, k)] / errors[name_of("off", k)] for k in both]
            error, ratio = study.with_error(own, ".4g"), study.with_error(ratios, ".3f")
            print(f"| {variant} | {len(own)} | {error} | {ratio} |")


def main() -> None:
    parser = study.options(__doc__ or "", "runs/softening")
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", choices=BACKBONES, default="equivariant-transformer")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    study.conduct(runs(options), options, report)


if __name__ == "__main__":
    main()
