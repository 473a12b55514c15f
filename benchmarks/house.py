"""What the code looks like in figures: sizes, types left open, circles of files, kernels' places.

    python benchmarks/house.py [CHECKOUT] [--json] [--circles] [--check]

It reads the sources of a checkout (default: the one it stands in) and imports nothing of it. Lines
are all lines of a file. A circle is a strongly connected set of files that import each other,
imports inside functions and behind TYPE_CHECKING included. Kernel lines are those of classes with
a hand-written backward pass (subclasses of autograd.Function) and of functions that touch ctypes;
there should be none outside of kernels/. Files behind a command are those that can be reached from
its file, or from the named network's, by imports within the project, late ones included.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

TOPS = ("commands", "models", "neupol_cli", "tests", "benchmarks")
CODE = ("commands", "models", "neupol_cli")  # what is installed
COMPILED = (".cpp", ".h")
WAYS = (("predict", "egnn"), ("density", "charge3net"))


@dataclass(frozen=True)
class Source:
    """A Python file of the checkout: its path there, its module's name, its text and its tree."""

    path: str
    module: str
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        """All lines, comments and empty ones too."""
        return self.text.count("\n")


def tracked(checkout: Path) -> list[str]:
    """The files that git knows, as paths in the checkout."""
    command = ["git", "-C", str(checkout), "ls-files"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split("\n")


def module_name(path: str) -> str:
    """What a file is imported as: models/ and commands/ are linked into neupol_cli/."""
    parts = path.removesuffix(".py").removesuffix("/__init__").split("/")
    return ".".join(parts if parts[0] not in ("commands", "models") else ["neupol_cli", *parts])


def sources(checkout: Path, tops: tuple[str, ...] = TOPS) -> list[Source]:
    """Every Python file of the top folders."""
    paths = [p for p in tracked(checkout) if p.endswith(".py") and p.split("/")[0] in tops]
    texts = {path: (checkout / path).read_text(encoding="utf-8") for path in paths}
    return [Source(p, module_name(p), text, ast.parse(text)) for p, text in texts.items()]


def lines_by_folder(checkout: Path, files: list[Source]) -> dict[str, dict[str, int]]:
    """Top folder -> lines of Python and of C++."""
    python, compiled = Counter[str](), Counter[str]()
    for file in files:
        python[file.path.split("/")[0]] += file.lines
    for path in tracked(checkout):
        if path.endswith(COMPILED):
            compiled[path.split("/")[0]] += (checkout / path).read_text().count("\n")
    return {top: {"python": python[top], "c++": compiled[top]} for top in TOPS}


def installed(files: list[Source]) -> list[Source]:
    """The files that a user gets."""
    return [file for file in files if file.path.split("/")[0] in CODE]


def open_types(files: list[Source]) -> dict[str, int]:
    """How often a type is `Any` and how often an attribute is looked up by its name."""
    counts = Counter[str](dict.fromkeys(("Any", "hasattr", "getattr", "setattr"), 0))
    for file in files:
        for node in ast.walk(file.tree):
            if isinstance(node, ast.Name) and node.id in counts:
                counts[node.id] += 1
    return dict(counts)


def imported(file: Source, modules: dict[str, Source]) -> set[str]:
    """The project's modules that a file imports anywhere in its text."""
    names = set()
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                names.add(whole if whole in modules else node.module)
    return {name for name in names if name in modules and name != file.module}


def graph(files: list[Source]) -> dict[str, set[str]]:
    """Module -> the project's modules that it imports."""
    modules = {file.module: file for file in files}
    return {name: imported(file, modules) for name, file in modules.items()}


def reachable(arrows: dict[str, set[str]], start: str) -> set[str]:
    """Every module behind ``start``, itself included."""
    reached, waiting = set(), [start]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting.extend(arrows[module])
    return reached


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Sets of modules each of which leads to every other one, the largest first."""
    behind = {module: reachable(arrows, module) for module in arrows}
    together = {
        frozenset(other for other in behind[module] if module in behind[other]) for module in arrows
    }
    return sorted((sorted(group) for group in together if len(group) > 1), key=len, reverse=True)


def upward(arrows: dict[str, set[str]]) -> list[str]:
    """Arrows from models into anything of neupol_cli but its errors."""
    inside, allowed = "neupol_cli.models", {"neupol_cli", "neupol_cli.errors"}
    return sorted(
        f"{module} -> {target}"
        for module, targets in arrows.items()
        if f"{module}.".startswith(f"{inside}.")
        for target in targets
        if not f"{target}.".startswith(f"{inside}.") and target not in allowed
    )


def _length(node: ast.ClassDef | ast.FunctionDef) -> int:
    """Lines of a class or function, from its name to its end."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _is_kernel(node: ast.stmt, text: str) -> bool:
    if isinstance(node, ast.ClassDef):
        return any(ast.unparse(base).endswith("Function") for base in node.bases)
    return isinstance(node, ast.FunctionDef) and "ctypes" in (
        ast.get_source_segment(text, node) or ""
    )


def kernel_lines(files: list[Source]) -> int:
    """Lines of hand-written backward passes and calls into C++ in models/, outside of kernels/."""
    formulas = (f for f in files if f.path.startswith("models/") and "/kernels/" not in f.path)
    return sum(
        _length(node)
        for file in formulas
        for node in file.tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and _is_kernel(node, file.text)
    )


def functions(files: list[Source]) -> Iterator[tuple[int, str]]:
    """Each function's lines and where it is."""
    for file in files:
        for node in ast.walk(file.tree):
            if isinstance(node, ast.FunctionDef):
                yield _length(node), f"{file.path}:{node.name}"


@dataclass(frozen=True)
class Figures:
    """What is measured; see the file's summary."""

    commit: str
    lines: dict[str, dict[str, int]]
    files: int
    open_types: dict[str, int]
    circles: list[list[str]]
    upward: list[str]
    kernel_lines: int
    behind: dict[str, int]
    longest_file: tuple[int, str]
    longest_functions: list[tuple[int, str]]


def commit(checkout: Path) -> str:
    """The commit that is checked out, shortened."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def figures(checkout: Path) -> Figures:
    """Reads and counts."""
    files = sources(checkout)
    code = installed(files)
    arrows = graph(code)
    behind = {
        f"`{command}` with {network}": len(
            reachable(arrows, f"neupol_cli.commands.{command}")
            | reachable(arrows, f"neupol_cli.models.{network}.network")
        )
        for command, network in WAYS
    }
    longest = max(code, key=lambda file: file.lines)
    return Figures(
        commit(checkout),
        lines_by_folder(checkout, files),
        len(code),
        open_types(code),
        circles(arrows),
        upward(arrows),
        kernel_lines(code),
        behind,
        (longest.lines, longest.path),
        sorted(functions(code), reverse=True)[:3],
    )


def rows(counted: Figures) -> Iterator[tuple[str, str]]:
    """What is counted, and how much of it there is."""
    for top, counts in counted.lines.items():
        yield f"{top}/, lines of Python + C++", f"{counts['python']:,} + {counts['c++']:,}"
    yield "Python files installed", str(counted.files)
    yield from ((f"`{name}`", str(count)) for name, count in counted.open_types.items())
    yield (
        "circles of files (files in them)",
        f"{len(counted.circles)} ({sum(map(len, counted.circles))})",
    )
    yield "arrows from models into neupol_cli but errors", str(len(counted.upward))
    yield "kernel lines in models/ outside of kernels/", f"{counted.kernel_lines:,}"
    yield from ((f"files behind {way}", str(count)) for way, count in counted.behind.items())
    yield "longest file", "{} ({})".format(*counted.longest_file)
    yield "longest functions", ", ".join(f"{size} ({at})" for size, at in counted.longest_functions)


def table(counted: Figures, named: bool) -> Iterator[str]:
    """The figures as a table in Markdown; with ``named`` the circles and wrong arrows too."""
    yield f"| | {counted.commit} |"
    yield "|---|---|"
    yield from (f"| {name} | {value} |" for name, value in rows(counted))
    if named:
        yield from ("", "circles:", *(" ".join(group) for group in counted.circles))
        yield from ("", "arrows:", *counted.upward)


def check(checkout: Path) -> None:
    """Names circles and wrong arrows, and fails if there are some; counts nothing else."""
    arrows = graph(sources(checkout, CODE))
    if wrong := [*map(" ".join, circles(arrows)), *upward(arrows)]:
        print("\n".join(wrong))
        sys.exit("circles of files, or arrows from models into neupol_cli")


def main() -> None:
    """Prints the table, or everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).parents[1]
    parser.add_argument("checkout", type=Path, nargs="?", default=here)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--circles", action="store_true", help="name circles and wrong arrows")
    parser.add_argument(
        "--check", action="store_true", help="only circles and wrong arrows; fail if there are some"
    )
    options = parser.parse_args()
    if options.check:
        check(options.checkout)
        return
    counted = figures(options.checkout)
    shown = [json.dumps(asdict(counted))] if options.json else table(counted, options.circles)
    print("\n".join(shown))


if __name__ == "__main__":
    main()
