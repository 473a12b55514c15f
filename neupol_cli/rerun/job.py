"""What ``neupol rerun`` does: checks what an output came from, makes it again and compares."""

from __future__ import annotations

import filecmp
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

from neupol_cli import __version__, provenance, registry
from neupol_cli.errors import CheckpointError, InputError, UsageError
from neupol_cli.io import files
from neupol_cli.rerun import records
from neupol_cli.rerun.records import Said
from neupol_cli.training.run import Folder

WEIGHTS = ("best.safetensors", "last.safetensors")  # of a run; its log has times in it
MANY = re.compile(r"\d+ files")  # inputs that are not named one by one
# Runs a command line, given without ``neupol``; anything but 0 is an exit code.
Run = Callable[[Sequence[str]], int]


def rerun(output: Path, new: Path | None, run: Run) -> bool:
    """Makes an output again.

    Args:
        output: a file or a run folder that neupol wrote.
        new: where to put what is made; else it is compared.
        run: the command line.

    Returns:
        Whether what is made is equal to the output, byte for byte; of a run its weights.

    Raises:
        InputError: the output does not say where it comes from, another version made it, or an
            input is not what it was.
        CheckpointError: a model is not what it was.
        UsageError: nothing can be written to ``new``.
    """
    said = records.read(output)
    _check(output, said)
    _check_new(output, new)
    with TemporaryDirectory() as scratch:
        made = _made(output, said, Path(scratch), run)
        if new is not None:
            _put(made, new)
        equal = _equal(made, output)
        if not equal:
            _check_same(output, said, made)
        return equal


def _check(output: Path, said: Said) -> None:
    if said.neupol != __version__:
        raise InputError(f"{output}: was made by neupol {said.neupol}, this is {__version__}")
    if said.is_cut:
        raise InputError(
            f"{output}: had no room for its whole command line ({said.command}), and "
            f"{provenance.beside(output).name} is not there"
        )
    for name, checksum in said.inputs.items():
        _check_input(output, name, checksum)
    for name, checksum in said.models.items():
        if name and provenance.checksum(registry.located(name)) != checksum:
            raise CheckpointError(f"{name}: is not the model any more that made {output} (SHA-256)")
    if output.is_dir():
        _check_run(output, said)


def _check_run(run: Path, said: Said) -> None:
    """InputError where no command makes the same run from its beginning."""
    if "--resume" in said.words:
        raise InputError(f"{run}: was resumed with other options; no one command makes it")
    trained = _is_training(run)
    if trained and Folder(run).read_config()["options"]["minutes"] is not None:
        raise InputError(
            f"{run}: was limited by time (neupol fit --minutes), and is never the same"
        )


def _check_input(output: Path, name: str, checksum: str | None) -> None:
    if name == provenance.STDIN:
        if sys.stdin.isatty():
            raise InputError(f"{output}: was made of what came through a pipe; pipe it in again")
    elif name and not (MANY.fullmatch(name) or Path(name).is_file()):
        raise InputError(f"{name}: is not there any more, and {output} was made of it")
    elif name and Path(name).is_file() and provenance.checksum(name) != checksum:
        raise InputError(f"{name}: has changed since {output} was made of it (SHA-256)")


def _check_new(output: Path, new: Path | None) -> None:
    if new is None:
        return
    if output.is_dir() and new.exists():
        raise UsageError(f"{new}: exists; name a new folder")
    if not output.is_dir():
        files.checked_target(new)


def _made(output: Path, said: Said, scratch: Path, run: Run) -> Path:
    """What the command writes in the place of the output: that of its name or, if it was given
    another one since, the only one of its kind."""
    words = said.words
    places, printed = scratch / "files", scratch / "stdout"
    places.mkdir()
    with (
        files.elsewhere(places) as moved,
        provenance.recording(words),
        printed.open("w", encoding="utf-8") as stream,
        redirect_stdout(stream),
    ):
        code = run(words)
    if code:
        raise SystemExit(code)
    found = _place(output, moved)
    return printed if found is None else found


def _place(output: Path, moved: Mapping[Path, Path]) -> Path | None:
    """None where nothing like it was written, and it is what was printed."""
    alike = [place for place in moved.values() if _kind(place) == _kind(output)]
    same = [place for place in alike if place.name == output.name]
    found = same or alike
    if len(found) > 1:
        names = ", ".join(place.name for place in alike)
        raise UsageError(f"{output}: its command writes {names}; give it the name that it had")
    return found[0] if found else None


def _kind(path: Path) -> object:
    return path.is_dir() or path.suffixes[-2:] if path.suffix == ".gz" else path.suffix


def _equal(made: Path, output: Path) -> bool:
    if not output.is_dir():
        return filecmp.cmp(made, output, shallow=False)
    names = WEIGHTS if _is_training(made) else sorted(path.name for path in made.iterdir())
    return not any(filecmp.cmpfiles(made, output, names, shallow=False)[1:])


def _is_training(run: Path) -> bool:
    return Folder(run)["config.json"].is_file()


def _check_same(output: Path, said: Said, made: Path) -> None:
    """Says why an output is not made again, where its record tells."""
    try:
        now = records.read(made)
    except InputError as error:
        raise InputError(f"{output}: its command makes nothing like it ({said.command})") from error
    if said.models != now.models:
        raise CheckpointError(f"{output}: was made by another model (SHA-256)")
    if said.inputs != now.inputs:
        raise InputError(f"{output}: was made of other inputs (SHA-256)")


def _put(made: Path, new: Path) -> None:
    if made.is_dir():
        with files.reported(new):
            shutil.copytree(made, new)
        return
    for place, target in ((made, new), (provenance.beside(made), provenance.beside(new))):
        if place.is_file():
            with files.atomic(target) as partial:
                shutil.copyfile(place, partial)
