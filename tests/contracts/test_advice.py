"""Messages advise what the command takes: held here for all commands that read structures, and for
whatever else the tests run (tests/warm.py)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from neupol_cli import app
from tests.advice import unknown
from tests.warm import neupol

ROOT = Path(__file__).parents[2]
SOURCES = [path for name in ("neupol_cli", "commands") for path in (ROOT / name).glob("**/*.py")]
NAMELESS = "no names\n1.0\n6 0 0\n0 6 0\n0 0 6\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
ATOM = "ATOM  {:5d}  {:<3}{}HOH A   1    {:8.3f}{:8.3f}{:8.3f}{:6.2f}  0.00          {:>2}\n"
TWICE = (
    ATOM.format(1, "O", " ", 0, 0, 0, 1, "O")
    + ATOM.format(2, "H1", " ", 0.76, 0.59, 0, 1, "H")
    + ATOM.format(3, "H2", "A", -0.76, 0.59, 0, 0.5, "H")
    + ATOM.format(4, "H2", "B", -0.78, 0.57, 0, 0.5, "H")
    + "END\n"
)
GROUP = "CRYST1   20.000   20.000   20.000  90.00  90.00  90.00 P 21 21 21    4\n"
FILES = [
    pytest.param(NAMELESS, ["--species", "Si,O"], id="species"),
    pytest.param(TWICE, ["--altloc", "A"], id="altloc"),
    pytest.param(GROUP + TWICE, ["--no-pbc", "--altloc", "A"], id="group"),
]

# Every command that reads structures, its words before the file.
READERS = {
    "bench-runtime": ("--minutes", "0.05", "-m", "points-homo"),
    "charges": (),
    "data dft": ("--on-error", "fail", "-o", "made.h5"),
    "data xyz": ("-o", "made.h5"),
    "density": ("-o", "rho.npz"),
    "density-descriptor": ("-o", "iri.npz", "iri"),
    "md": ("--steps", "1", "-o", "run"),
    "potential": (),
    "predict": (),
    "relax": (),
    "trajectory": (),
    "vib": (),
}


def test_every_command_that_reads_structures_is_here() -> None:
    commands = [*app.COMMANDS, *(f"data {name}" for name in _members())]
    assert [c for c in sorted(commands) if "--altloc" in app.options_of(c.split())] == [*READERS]


def _members() -> list[str]:
    return [one.name or one.callback.__name__ for one in app.GROUPS["data"].registered_commands]


def test_whoever_reads_structures_asks_how() -> None:
    """Else their messages advise what the command does not take."""
    calls = [
        (path.name, call)
        for path in SOURCES
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) in ("structures.read", "reader.read")
    ]
    assert len(calls) >= 7
    lacking = [name for name, call in calls if "reading" not in {k.arg for k in call.keywords}]
    assert lacking == []


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize(("text", "advice"), FILES)
def test_what_a_file_does_not_say_can_be_said(
    command: str, text: str, advice: list[str], tmp_path: Path
) -> None:
    """It is refused, with an option in the message; with that option it is not."""
    name = "a.pdb" if "HOH" in text else "POSCAR"
    (tmp_path / name).write_text(text)
    words = (*command.split(), *READERS[command], name)
    refused = neupol(*words, cwd=tmp_path)
    assert refused.returncode == 65 and advice[0] in refused.stderr
    followed = neupol(*words, *advice, cwd=tmp_path)
    assert followed.returncode != 2 and advice[0] not in followed.stderr


# Options that name a file to write, with what the command needs beside them.
WRITERS = [
    ("charges", "-o", "--grid 24,24,24"),
    ("density", "-o", "--grid 8,8,8 --accept"),
    ("density", "--spin", "--grid 8,8,8 --accept -m spin"),
    ("density-descriptor iri", "-o", "--grid 8,8,8"),
    ("potential", "-o", "--grid 24,24,24"),
    ("predict", "-o", "-m points-homo"),
    ("relax", "-o", "--steps 0"),
    ("relax", "--trajectory", "--steps 0"),
    ("trajectory", "-o", ""),
    ("vib", "--modes", ""),
]
WATER = "3\nwater\nO 0 0 0\nH 0 0.76 0.59\nH 0 -0.76 0.59\n"


@pytest.mark.parametrize(("command", "option", "more"), WRITERS)
def test_every_ending_that_is_offered_is_taken(
    command: str, option: str, more: str, tmp_path: Path
) -> None:
    words = (*command.split(), "-", *more.split(), option)
    refused = neupol(*words, "a.nothing", cwd=tmp_path, input=WATER)
    assert refused.returncode == 2 and "a.nothing: the " in refused.stderr
    offered = re.findall(r"(?<=[ ,])\.[a-z0-9]+", refused.stderr)
    offered += re.findall(r"(?<=be a )[\w.-]+", refused.stderr)
    assert offered
    for ending in offered:
        name = f"a{ending}" if ending[0] == "." else ending
        cell = 'Lattice="9 0 0 0 9 0 0 0 9"' if name == "charge-density.dat" else "water"
        done = neupol(*words, name, cwd=tmp_path, input=WATER.replace("water", cell))
        assert done.returncode == 0, done.stderr
        assert (tmp_path / name).exists()


def test_advice_that_cannot_be_taken_is_seen() -> None:
    line = "neupol: a.h5: is periodic; --no-pbc or --periods 1 (neupol data info --json)"
    assert [*unknown(["evaluate", "a.h5"], line)] == ["--no-pbc", "--periods"]
    assert [*unknown(["predict", "--periods", "a.h5"], line)] == []
    assert [*unknown(["predict", "--on-error=x"], "neupol: --on-error takes fail")] == []


@pytest.mark.parametrize("command", [*app.COMMANDS, "data dft"])
def test_where_memory_is_short_the_command_has_what_is_advised(command: str, capsys) -> None:
    words = command.split()
    assert app._other(MemoryError("20 GB"), words) == 75
    told = capsys.readouterr().err
    assert "out of memory: 20 GB" in told and not [*unknown(words, told)]
    assert ("--memory" in told) == ("--memory" in app.options_of(words))
