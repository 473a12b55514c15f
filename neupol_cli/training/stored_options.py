"""The types and ranges of the options that a run folder keeps."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from neupol_cli.models.settings import Fraction, Range
from neupol_cli.options import LARGEST_SEED

Whole = Annotated[int, Range(0, 2**62)]
Positive = Annotated[int, Range(1, 2**62)]
Amount = Annotated[float, Range(0, 1e300)]
Time = Annotated[float, Range(1e-9, 1e300)]


class StoredOptions(TypedDict):
    """What a run folder's config.json keeps: every option of `neupol fit`, as it was chosen."""

    model: str
    preset: str | None
    bounded: bool
    tied: bool
    softened: bool
    cut: bool
    data: str
    target: list[str]
    partition: str
    limit: Whole
    references: str
    scale: str
    loss: str
    weight: list[str]
    polarization: str | None
    encoding: str | None
    start: str
    freeze: list[str]
    smoothness: Amount
    set_: list[str]
    epochs: Time | None
    steps: Positive | None
    minutes: Time | None
    patience: Whole
    batch_size: Positive
    lr: Amount
    layer_lr: list[str]
    optimizer: str
    weight_decay: Amount
    decays: str
    schedule: str
    warmup: Whole
    ema: Fraction
    clip: Amount
    seed: Annotated[int, Range(0, LARGEST_SEED)]
    device: str
    dtype: Literal["float32", "float64"]
    valid_every: Whole
    save_every: str
