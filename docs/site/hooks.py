"""What MkDocs is told: pages made from the code, links into the code, equations as MathML."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from pathlib import Path

import guide
import links
import reference
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.S)
LEXERS = {".py": "python", ".cpp": "cpp", ".h": "cpp", ".toml": "toml", ".md": "markdown"}
HOWTO = "How to"
ORIGINS: dict[str, str] = {}  # a page of the site -> the file of the repository it shows


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Equations are fences called math; pages that nav does not name stand under "How to"."""
    fence = {"name": "math", "class": "equation", "format": _equation}
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}
    nav = {title: pages for section in config.nav or [] for title, pages in section.items()}
    named = {page for pages in nav.values() for page in pages}
    nav[HOWTO] += [page for page in _written() if page not in named]
    nav["Models"] += [links.uri(path) for path in _of_folder("models/weights")]
    nav["Reference"] += sorted(set(reference.pages()) - named)
    nav["Measurements"] += [links.uri(path) for path in _of_folder("benchmarks/results")]
    config.nav = [{title: pages} for title, pages in nav.items()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what does not lie in docs/."""
    for file in list(files.documentation_pages()):
        ORIGINS[file.src_uri] = f"docs/{file.src_uri}"
    made = reference.pages() | {"models/index.md": guide.index()}
    for path in [*links.MOVED, *_of_folder("models/weights"), *_of_folder("benchmarks/results")]:
        if path != "README.md":
            ORIGINS[links.uri(path)] = path
            made[links.uri(path)] = (links.ROOT / path).read_text()
    texts = [(links.ROOT / origin).read_text() for origin in ORIGINS.values()]
    made |= _sources(zip(ORIGINS.values(), texts, strict=True))
    for uri, text in made.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links of a page that is a file of the repository."""
    site = page.file.src_uri
    return links.rewritten(markdown, ORIGINS[site], site) if site in ORIGINS else markdown


def on_page_content(html_text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Equations within lines."""
    return INLINE.sub(lambda match: convert(html.unescape(match[1])), html_text)


def _equation(source: str, *_: object, **__: object) -> str:
    """A fence called math."""
    return f'<div class="equation">{convert(source, display="block")}</div>'


def _written() -> list[str]:
    """Pages in docs/."""
    docs = links.ROOT / "docs"
    return sorted(str(path.relative_to(docs)) for path in docs.rglob("*.md"))


def _of_folder(folder: str) -> list[str]:
    """Markdown files of a folder of the repository."""
    return sorted(str(path.relative_to(links.ROOT)) for path in (links.ROOT / folder).glob("*.md"))


def _sources(pages: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Pages of the files that pages link to and that are no pages themselves, with line numbers."""
    linked = {links.resolved(page, one)[0] for page, text in pages for one in links.targets(text)}
    wanted = sorted(path for path in linked if links.uri(path).startswith("source/"))
    return {links.uri(path): _source(path) for path in wanted}


def _source(path: str) -> str:
    lexer = LEXERS.get(Path(path).suffix, "make" if path.endswith("Makefile") else "text")
    text = (links.ROOT / path).read_text()
    head = f"---\nsearch:\n  exclude: true\nhide: [toc]\n---\n# {path}\n"
    return f'{head}\n~~~~~~{lexer} linenums="1"\n{text}\n~~~~~~\n'
