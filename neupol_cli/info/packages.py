"""Versions of what neupol is built on, and what else it can use."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from neupol_cli.info.fact import Fact

NEEDED = (
    "torch", "numpy", "ase", "e3nn", "h5py", "safetensors", "vesin", "matplotlib", "rich", "typer",
)  # fmt: skip


@dataclass(frozen=True)
class Extra:
    """A package that one thing needs and all else does without.

    Attributes:
        name: as pip calls it.
        use: what needs it.
        extra: of neupol's, that brings it; empty where none does.
    """

    name: str
    use: str
    extra: str = ""

    @property
    def way(self) -> str:
        """How to get it."""
        return f"pip install 'neupol[{self.extra}]'" if self.extra else f"pip install {self.name}"


OPTIONAL = (
    Extra("rdkit", "SMILES", "rdkit"),
    Extra("pyscf", "data dft, bench-runtime --dft", "dft"),
    Extra("qm9pack", "data qm9", "qm9"),
    Extra("scikit-image", "potential --surface", "surface"),
    Extra("triton", "densities on a GPU, faster"),
    Extra("k3d", "density and charges --plot F.html", "plot"),
    Extra("baderkit", "charges --scheme bader", "bader"),
    Extra("tensorboard", "fit: events in the run folder", "tensorboard"),
    Extra("lz4", "data density: .lz4 files"),
)


def needed() -> Fact:
    """The version of each package; None of one that is missing, or left no record."""
    versions = {name: _version(name) for name in NEEDED}
    listed = (f"{name} {found or 'MISSING'}" for name, found in versions.items())
    return Fact(versions, ", ".join(listed))


def optional() -> Fact:
    """The same of what need not be there, and how to get what is missing."""
    record, present, missing = {}, [], []
    for package in OPTIONAL:
        found = _version(package.name)
        record[package.name] = {"version": found, "for": package.use, "install": package.way}
        if found:
            present.append(f"{package.name} {found}")
        else:
            missing.append(f"no {package.name} ({package.use}): {package.way}")
    return Fact(record, "\n".join([", ".join(present) or "none", *missing]))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
