"""What a shell offers behind ``-m`` and as MODEL: names, each with what it is.

A shell asks while somebody types: nothing here imports PyTorch or opens a file that is not ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

Offer = tuple[str, str]  # a word and what is said of it


def trained(incomplete: str) -> list[Offer]:
    """Bundled models, and run folders and checkpoints beneath the folder that is being typed."""
    return _beginning(incomplete, _bundled() | dict(_files(incomplete)))


def untrained(incomplete: str) -> list[Offer]:
    """Networks and presets."""
    from neupol_cli.networks import ENTRIES
    from neupol_cli.training.presets import presets

    networks = {entry.name: entry.summary for entry in ENTRIES.values()}
    known = {preset.name: preset.summary for preset in presets().values()}
    return _beginning(incomplete, known | networks)


def any_model(incomplete: str) -> list[Offer]:
    """Both."""
    return [*untrained(incomplete), *trained(incomplete)]


def _beginning(incomplete: str, offers: Mapping[str, str]) -> list[Offer]:
    return [(word, said) for word, said in offers.items() if word.startswith(incomplete)]


def _bundled() -> dict[str, str]:
    from neupol_cli.bundled import bundled, bundled_header

    answers = {name: ", ".join(bundled_header(name).get("targets", {})) for name in bundled()}
    return {name: f"bundled: {targets or 'density'}" for name, targets in answers.items()}


def _files(incomplete: str) -> Iterator[Offer]:
    """Spelled as the word begins, as shells want them."""
    begun, slash, _ = incomplete.rpartition("/")
    for path in sorted(Path(begun + slash).glob("*.safetensors")):
        yield f"{begun}{slash}{path.name}", "checkpoint"
    for path in sorted(Path(begun + slash).glob("*/best.safetensors")):
        yield f"{begun}{slash}{path.parent.name}", "run folder"
