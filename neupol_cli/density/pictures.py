"""Which file a picture of a density can be: slices, or a page of surfaces to turn."""

from __future__ import annotations

from neupol_cli import figures
from neupol_cli.io.volumetric import Volume
from neupol_cli.surfaces import page
from neupol_cli.surfaces.scene import Layer, Scene, density_layer, signed_layer


def is_page(name: str) -> bool:
    """Whether a picture of that name is a page."""
    return name.lower().endswith(page.SUFFIX)


def check_name(name: str) -> None:
    """Before any work: can a picture of that name be made?

    Raises:
        UsageError: no picture has this ending, or what draws pages is missing.
    """
    figures.check_name(name, (page.SUFFIX,))
    if is_page(name):
        page.check_installed()


def write_page(name: str, title: str, volume: Volume, reference: Volume | None) -> None:
    """A density to turn; its spin density, and what it is off by, if they are there.

    Args:
        name: the page's file.
        title: of the page.
        volume: the density.
        reference: a density on the same grid.

    Raises:
        StorageError: the page cannot be written.
    """
    layers = [*layers_of(volume)]
    if reference is not None:
        difference = volume.values - reference.values
        layers.append(signed_layer(difference, "predicted minus reference"))
    page.write(name, Scene(title, volume.atoms, volume.grid, layers))


def layers_of(volume: Volume) -> list[Layer]:
    """Of a density, and of its spin if it has one."""
    layers = [density_layer(volume.values)]
    if volume.spin is not None:
        layers.append(signed_layer(volume.spin, "spin density, up minus down"))
    return layers
