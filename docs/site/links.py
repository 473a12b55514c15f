"""Where a file of the repository is in the site, and links between pages rewritten for it.

Pages link to files of the repository relative to themselves, as everywhere in it, so that they can
be followed without the site, too. A link to code may name what it means, as in
``../models/egnn/network.py#Layer.phi_h``: in the site it leads to that line.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
FENCE = re.compile(r"^(`{3,}|~{3,}).*?^\1\s*$|^(?: {4}[^\n]*\n)+|`[^`\n]+`", re.M | re.S)
MOVED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "measurements/index.md",
}
FOLDERS = {"models/weights": "models", "benchmarks/results": "measurements"}


def uri(path: str) -> str:
    """The site's page of a file, given as its path in the repository."""
    pure = PurePosixPath(path)
    if path in MOVED:
        return MOVED[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    folder = FOLDERS.get(str(pure.parent))
    return f"{folder}/{pure.name}" if folder and pure.suffix == ".md" else f"source/{path}.md"


def targets(text: str) -> Iterator[str]:
    """What a page links to, outside of its code; addresses of the web are left out."""
    for match in LINK.finditer(FENCE.sub("", text)):
        if not re.match(r"\w+:|#", match[2]):
            yield match[2]


def resolved(page: str, target: str) -> tuple[str, str]:
    """A link's file, as a path in the repository, and the part behind #."""
    path, _, part = target.partition("#")
    return normpath(str(PurePosixPath(page).parent / path)), part


@cache
def symbols(path: str) -> dict[str, int]:
    """Functions, classes, annotated names and methods (Class.method) of a Python file -> lines."""
    lines: dict[str, int] = {}

    def walk(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                lines[prefix + node.name] = node.lineno
                walk(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                lines[prefix + node.target.id] = node.lineno

    walk(ast.parse((ROOT / path).read_text()).body, "")
    return lines


def rewritten(text: str, page: str, site: str) -> str:
    """A page's text with its links as the site wants them.

    Args:
        text: Markdown.
        page: its path in the repository, which its links start from.
        site: where it is in the site.
    """

    def link(match: re.Match[str]) -> str:
        target = match[2]
        if re.match(r"\w+:|#", target):
            return match[0]
        path, part = resolved(page, target)
        if path.endswith(".py") and part:
            part = f"__codelineno-0-{symbols(path)[part]}"
        place = relpath(uri(path), str(PurePosixPath(site).parent))
        return f"{match[1]}{place}{'#' if part else ''}{part}{match[3]}"

    pieces, start = [], 0
    for code in FENCE.finditer(text):
        pieces += [LINK.sub(link, text[start : code.start()]), code[0]]
        start = code.end()
    return "".join([*pieces, LINK.sub(link, text[start:])])
