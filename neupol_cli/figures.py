"""Pictures that matplotlib writes: their names, and that they appear whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from neupol_cli import provenance
from neupol_cli.errors import UsageError
from neupol_cli.io.files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".pdf", ".svg")


def check_name(path: str | Path, others: Sequence[str] = ()) -> None:
    """UsageError unless matplotlib can write a picture of that name, or it ends in one of
    ``others``."""
    endings = (*FORMATS, *others)
    if not str(path).lower().endswith(endings):
        raise UsageError(f"{path}: a picture's name ends in {', '.join(endings)}")


def save(figure: Figure, path: str | Path, dpi: int) -> None:
    """Writes a figure in the format that its name says."""
    with atomic(path) as partial, partial.open("wb") as stream:
        _put(figure, stream, Path(path).suffix[1:].lower(), dpi)


def svg(figure: Figure, dpi: int) -> bytes:
    """A figure as an SVG; ``dpi`` is of what it holds as pixels."""
    stream = BytesIO()
    _put(figure, stream, "svg", dpi)
    return stream.getvalue()


def _put(figure: Figure, stream: BinaryIO, kind: str, dpi: int) -> None:
    import matplotlib

    unchanging = {"svg.hashsalt": "neupol"}  # names in an SVG, which are drawn at random else
    with matplotlib.rc_context(unchanging):
        figure.savefig(stream, format=kind, dpi=dpi, metadata=_metadata(kind))


def _metadata(kind: str) -> dict[str, str | None]:
    """Where a picture comes from, and no date, which PDF and SVG have else."""
    dates: dict[str, dict[str, str | None]] = {
        "pdf": {"CreationDate": None},
        "svg": {"Date": None},
    }
    place = "Subject" if kind == "pdf" else "Description"
    return dates.get(kind, {}) | ({place: origin} if (origin := provenance.text()) else {})
