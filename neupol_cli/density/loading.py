"""The density model that a command line names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neupol_cli import registry
from neupol_cli.devices import device_named, dtype_named

if TYPE_CHECKING:
    from neupol_cli.models.density.model import DensityModel


def load_model(source: str | None, device: str = "auto", dtype: str = "float32") -> DensityModel:
    """A density model, ready to predict.

    Args:
        source: what ``-m`` names; None is the first bundled density model.
        device: what ``--device`` names.
        dtype: what ``--dtype`` names.

    Returns:
        The model.

    Raises:
        UsageError: a model of another task, or a type of number that there is not.
        InputError: nothing has that name.
    """
    kind = dtype_named(dtype)
    name = source or registry.bundled_for("predicts densities", _is_density)
    return registry.load_density(name, device_named(device), kind)


def _is_density(header: registry.Header) -> bool:
    return registry.entry(header["model"]).task == "density"
