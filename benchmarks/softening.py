"""What of Neural Polarization's gain is its singularity: movable points, softened and as published.

    neupol data qm9 -o qm9.h5
    OMP_NUM_THREADS=1 python benchmarks/softening.py qm9.h5 --out runs/softening

The equivariant transformer on QM9's U0: one point an atom, a second one that stays, and movable
points whose direction from their atom appears at once (softening 0, the published formula) or
within a quarter and half an Angstrom. All else equal, several seeds; means and standard errors.
"""

from __future__ import annotations

from pathlib import Path

import study

TARGET = "U0"
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


def runs(data: Path, steps: int, seeds: int) -> list[study.Run]:
    """A training a variant and seed, seed after seed."""
    common = (
        *("equivariant-transformer", data, "--target", TARGET, "--steps", steps),
        *("--batch-size", 32, "--lr", 0.001, "--warmup", 100, "--clip", 2, "--ema", 0.995),
        *("--set", "hidden=64", "--set", "layers=4", "--valid-every", steps),
    )
    return [
        study.Run(
            name_of(variant, seed),
            (*common, "--polarization", mode, "--set", f"softening={softening}", "--seed", seed),
        )
        for seed in range(seeds)
        for variant, (mode, softening) in VARIANTS.items()
    ]


def report(results: study.Results) -> None:
    """The table of what has been trained so far: errors in meV, and each seed's against off."""
    print("| | seeds | error, meV | against off |\n|---|---|---|---|")
    errors = {name: 1000 * float(r["test"][TARGET]["value"]) for name, r in results.items()}
    for variant in VARIANTS:
        seeds = [k for k in range(len(errors)) if name_of(variant, k) in errors]
        own = [errors[name_of(variant, k)] for k in seeds]
        both = [k for k in seeds if name_of("off", k) in errors]
        ratios = [errors[name_of(variant, k)] / errors[name_of("off", k)] for k in both]
        error, ratio = study.with_error(own, ".1f"), study.with_error(ratios, ".3f")
        print(f"| {variant} | {len(own)} | {error} | {ratio} |")


def main() -> None:
    parser = study.options(__doc__ or "", "runs/softening")
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    study.conduct(runs(options.data, options.steps, options.seeds), options, report)


if __name__ == "__main__":
    main()
