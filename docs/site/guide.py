"""The model guide: networks, presets and bundled models, from the registry and the cards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from neupol_cli import registry
from neupol_cli.training import presets

HEAD = """# Models

`-m` of every command takes a bundled name, a run folder of `neupol fit`, a `.safetensors` file or a
published checkpoint (`.pt`, `.pth`, `.ckpt` of plain tensors; nothing in it is run). Several `-m`
make a committee. What one is, `neupol models NAME` prints.
"""


def index() -> str:
    """The page that lists them all."""
    bundled = (_bundled(name) for name in registry.bundled())
    networks = (
        (entry.name, entry.task, entry.summary, entry.source) for entry in registry.ENTRIES.values()
    )
    known = ((one.name, one.network, one.summary) for one in presets.presets().values())
    return "\n".join(
        [
            HEAD,
            *_table(
                "Bundled models", ("model", "network", "what it answers", "what it is"), bundled
            ),
            *_table("Networks", ("network", "answers", "what it is", "source"), networks),
            *_table("Presets", ("`neupol fit PRESET`", "network", "what it trains"), known),
        ]
    )


def _bundled(name: str) -> tuple[str, ...]:
    header = registry.bundled_header(name)
    title = registry.bundled_card(name).split("\n", 1)[0].split(": ", 1)[1]
    answers = ", ".join(header.get("targets", {})) or "density"
    return f"[{name}]({name}.md)", header["model"], answers, title


def _table(title: str, heads: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    heads = list(heads)
    yield from (f"## {title}", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|")
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""
