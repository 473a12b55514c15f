"""The trained models that come with neupol: their files, headers and cards."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, cast

from neupol_cli import earlier_settings
from neupol_cli.errors import UsageError

if TYPE_CHECKING:
    from neupol_cli.models.base import Header


def bundled() -> dict[str, Path]:
    """The bundled models by name."""
    folder = Path(str(resources.files("neupol_cli.models.weights")))
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def bundled_for(purpose: str, fits: Callable[[Header], bool]) -> str:
    """The first bundled model whose header fits.

    Args:
        purpose: what it would do, for the message, such as ``predicts densities``.
        fits: whether a header is such a model's.

    Raises:
        UsageError: there is none.
    """
    for name in bundled():
        if fits(bundled_header(name)):
            return name
    raise UsageError(f"no bundled model {purpose}; name one with -m")


def knowing(numbers: Collection[int]) -> list[str]:
    """The bundled models that answer properties of structures of these elements."""
    found = []
    for name in bundled():
        config = bundled_header(name)["config"]
        if "targets" in config and set(numbers) <= set(cast(list[int], config["species"])):
            found.append(name)
    return found


def bundled_header(name: str) -> Header:
    """What a bundled file says of itself; read without its tensors."""
    with bundled()[name].open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header: Header = json.loads(json.loads(stream.read(size))["__metadata__"]["neupol"])
    header["config"] = earlier_settings.current(header["config"])
    return header


def bundled_card(name: str) -> str:
    """The model's card: how it was made, how well it does, where it ends."""
    return bundled()[name].with_suffix(".md").read_text()
