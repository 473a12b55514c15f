"""Every network by its name; imported when it is built, not before."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING

from neupol_cli import earlier_settings, provenance
from neupol_cli.bundled import bundled, bundled_card, bundled_for, bundled_header
from neupol_cli.errors import CheckpointError, InputError, UsageError
from neupol_cli.networks import ENTRIES, Entry
from neupol_cli.validation import check_settings

__all__ = [
    "ENTRIES", "Entry", "build", "bundled", "bundled_card", "bundled_for", "bundled_header",
    "configure", "defaults", "entry", "from_published", "load", "load_density", "load_property",
    "located", "recognised",
]  # fmt: skip

if TYPE_CHECKING:
    import torch
    from _typeshed import DataclassInstance

    from neupol_cli.models.base import Arguments, Header, Model, Network
    from neupol_cli.models.density.model import DensityModel
    from neupol_cli.models.property import PropertyModel

    Settings = Mapping[str, object]  # plain values of a Config, lists for tuples


def entry(name: str) -> Entry:
    """The entry of that name.

    Raises:
        UsageError: there is none; the message lists the networks and the presets.
    """
    if name not in ENTRIES:
        from neupol_cli.training.presets import presets

        raise UsageError(
            f"no network is called {name!r}; there are {', '.join(ENTRIES)}; "
            f"presets for `neupol fit`: {', '.join(presets())}"
        )
    return ENTRIES[name]


def configure(name: str, config: Settings) -> DataclassInstance:
    """A network's Config from plain values (lists for tuples), as a checkpoint keeps them.

    Raises:
        UsageError: a key that this network does not have (the message lists those it has), or a
            value of another type or out of range.
    """
    kind = entry(name).load().Config
    known = {field.name for field in fields(kind)}
    config = earlier_settings.current(config)
    unknown = [key for key in config if key not in known]
    if unknown:
        raise UsageError(f"{name} has no setting {unknown[0]!r}; it has {', '.join(sorted(known))}")
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    settings = kind(**plain)
    check_settings(settings)
    return settings


def defaults(name: str) -> dict[str, object]:
    """Every setting of a network with its default."""
    return {
        field.name: None if field.default is MISSING else field.default
        for field in fields(entry(name).load().Config)
    }


def build(name: str, config: Settings) -> Model:
    """A new network with random weights, from plain values of its Config.

    Returns:
        A ``PropertyModel`` around the backbone, or the density or dynamics network itself.

    Raises:
        UsageError: settings that make no network.
    """
    return _model(_network(name, configure(name, config)))


def _network(name: str, settings: DataclassInstance) -> Network:
    """A network with random weights.

    Raises:
        UsageError: settings that make none.
    """
    try:
        return entry(name).load()(settings)
    except (ArithmeticError, IndexError, RuntimeError, ValueError) as error:
        raise UsageError(f"{name}: these settings make no network: {error}") from error


def _model(network: Network) -> Model:
    """The model of a network: with units around a backbone, or the network itself."""
    from neupol_cli.models.base import Backbone, Model
    from neupol_cli.models.property import PropertyModel

    if isinstance(network, Backbone):
        return PropertyModel(network)
    if isinstance(network, Model):
        return network
    raise TypeError(f"{type(network).__name__} is neither a backbone nor a model")


def load(
    source: str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Model:
    """A trained network, ready to predict.

    Args:
        source: a bundled name, a run folder (its best weights), a ``.safetensors`` file, or a
            published ``.pt`` / ``.pth`` / ``.ckpt`` file of plain tensors.
        device: where it shall compute.
        dtype: the type of number it shall compute with; None keeps that of the file.

    Returns:
        The model, with the file's header as ``model.header``.

    Raises:
        InputError: there is nothing of that name.
        CheckpointError: the file is damaged, foreign, or wants to run code.
    """
    path = located(source)
    provenance.model(source, path)
    model = recognised(path) if path.suffix in PUBLISHED else _restored(path)
    return model.to(device=device, dtype=dtype).eval()


def load_property(
    source: str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> PropertyModel:
    """A trained model of properties; see :func:`load`.

    Raises:
        UsageError: it predicts something else.
    """
    from neupol_cli.models.property import PropertyModel

    model = load(source, device, dtype)
    if isinstance(model, PropertyModel):
        return model
    raise InputError(f"{source}: a network for {model.task} predicts no properties")


def load_density(
    source: str, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> DensityModel:
    """A trained model of densities; see :func:`load`.

    Raises:
        UsageError: it predicts something else.
    """
    from neupol_cli.models.density.model import DensityModel

    model = load(source, device, dtype)
    if isinstance(model, DensityModel):
        return model
    raise UsageError(f"{source}: a network for {model.task} predicts no densities")


PUBLISHED = {".pt", ".pth", ".ckpt"}


def located(source: str) -> Path:
    """The file behind what a user passes to ``-m``.

    Raises:
        InputError: there is nothing of that name.
    """
    path = Path(source)
    if path.is_dir():
        path = path / "best.safetensors"
        if not path.exists():
            raise InputError(f"{source}: a folder without best.safetensors; has `fit` run there?")
    if path.is_file():
        return path
    if source in bundled():
        return bundled()[source]
    known = ", ".join(bundled()) or "none"
    raise InputError(
        f"{source}: neither a file, a run folder nor a bundled model (bundled: {known})"
    )


def _restored(path: Path) -> Model:
    """The model of a checkpoint of ours, in its own type of number."""
    from neupol_cli import checkpoint, checkpoint_limits

    header, tensors = checkpoint.load_file(path)
    checkpoint_limits.check_numbers(tensors, path)
    with checkpoint_limits.no_larger_than(tensors, path):
        model = _built(path, header)
        _calibrate(model, tensors)
    # The buffers of the units are float64 whatever the network computes with.
    dtypes = {t.dtype for name, t in tensors.items() if "." in name}
    model = model.to(checkpoint_limits.computed_in(dtypes))
    checkpoint.restore(model, tensors, path)
    model.header = header
    checkpoint_limits.check_claims(model, path)
    return model


def _calibrate(model: Model, names: Collection[str]) -> None:
    """Makes room for calibrations where a checkpoint has tensors of them."""
    from neupol_cli.models.calibration import ATOM_PREFIX, FORCE_PREFIX, PREFIX
    from neupol_cli.models.density.model import DensityModel
    from neupol_cli.models.property import PropertyModel

    if any(name.startswith(PREFIX) for name in names):
        model.calibration = model.uncalibrated()
    if isinstance(model, PropertyModel) and any(name.startswith(FORCE_PREFIX) for name in names):
        model.force_calibration = model.uncalibrated_forces()
    if isinstance(model, DensityModel) and any(name.startswith(ATOM_PREFIX) for name in names):
        model.atom_calibration = model.uncalibrated_atoms()


def _built(path: Path, header: Header) -> Model:
    """The network that a header describes; what does not fit this version is refused."""
    try:
        name = header["model"]
        return build(name, earlier_settings.completed(header["config"], defaults(name)))
    except UsageError as error:
        raise CheckpointError(f"{path}: describes no network of this version: {error}") from error


def recognised(path: Path) -> Model:
    """A published checkpoint, whose network is known by the names of its weights.

    Raises:
        CheckpointError: no network knows them.
    """
    from neupol_cli import checkpoint

    content = checkpoint.load_published(path)
    for network in ENTRIES.values():
        published = network.load().recognise(content)
        if published is not None:
            model = from_published(network.name, *published)
            model.header = {"model": network.name, "source": str(path)}
            return model
    raise CheckpointError(f"{path}: not a published checkpoint that neupol knows")


def from_published(name: str, weights: Mapping[str, object], config: Arguments) -> Model:
    """A network with published weights.

    Args:
        name: registry name.
        weights: the published state_dict, arrays or tensors under their published names.
        config: the published arguments. What property networks have around them goes in too:
            ``atomref`` (energies of single atoms by atomic number), ``mean``, ``std`` or ``mad``.

    Raises:
        CheckpointError: a weight is missing or has another shape.
    """
    import torch

    from neupol_cli import checkpoint_limits
    from neupol_cli.models.property import PropertyModel

    tensors = {key: torch.as_tensor(value) for key, value in weights.items()}
    kind = entry(name).load()
    try:
        ours, state = kind.published(tensors, config)
    except KeyError as error:
        raise CheckpointError(f"published {name} weights lack {error}") from error
    checkpoint_limits.check_numbers(state, name)
    try:
        check_settings(ours)
        with checkpoint_limits.no_larger_than(state, name):
            network = _network(name, ours)
    except UsageError as error:
        raise CheckpointError(f"published arguments make no network: {error}") from error
    model = _model(_filled(name, network, state))
    if isinstance(model, PropertyModel):
        model.standardise(kind.published_units(tensors, config))
    return model.eval()


def _filled(name: str, network: Network, state: dict[str, torch.Tensor]) -> Network:
    """The network with these tensors in it, in their type of number."""
    floating = [t.dtype for t in state.values() if t.is_floating_point()]
    network = network.to(floating[0])
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"these are not weights of {name}: {error}") from error
    return network.eval()
