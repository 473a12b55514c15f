"""Damaged files of every format that is read, and what must not come of them.

    python -m tests.io.mutations [--count 20000] [--seed 0]

A damaged file is refused (InputError, exit 65) or answered; never anything else, never slow, and
one cut short is not taken for a smaller structure without a doubt.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write as ase_write

from neupol_cli.errors import InputError
from neupol_cli.io import structures, volumetric
from tests.conftest import DATA
from tests.volumes import crystal as small_volume

SLOWEST = 5.0  # seconds of a processor
LARGEST = 40_000  # bytes
NASTY = (
    b"nan", b"inf", b"-1", b"0", b"1e999", b"-1e999", b"99999999999999999999", b"1e-320", b"1.0d5",
    b"1_0", b"0x10", b"***", b"", b"\x00", b"\x1b[2J", b"\xff\xfe", "\u0661".encode(), b"H" * 5000,
)  # fmt: skip
# Of these, a beginning that ends with a line is a file; nothing in them says what is missing.
OPEN_ENDED = ("geometry.in", "a.pdb", "a.xsf", "water.mop", "box.mop")
WRITTEN: dict[str, tuple[str, Atoms]] = {
    "a.xyz": ("xyz", molecule("H2O")),
    "a.extxyz": ("extxyz", bulk("NaCl", "rocksalt", a=5.6)),
    "a.gen": ("gen", bulk("NaCl", "rocksalt", a=5.6)),
    "a.car": ("dmol-car", molecule("H2O")),
    "a.cif": ("cif", bulk("NaCl", "rocksalt", a=5.6)),
    "a.pdb": ("proteindatabank", molecule("CH3CH2OH")),
    "a.gro": ("gromacs", bulk("NaCl", "rocksalt", a=5.6, cubic=True)),
    "a.xsf": ("xsf", molecule("H2O")),
    "a.com": ("gaussian-in", molecule("H2O")),
    "geometry.in": ("aims", bulk("NaCl", "rocksalt", a=5.6)),
    "coord": ("turbomole", molecule("H2O")),
    "POSCAR": ("vasp", bulk("NaCl", "rocksalt", a=5.6)),
    "XDATCAR": ("vasp-xdatcar", bulk("NaCl", "rocksalt", a=5.6)),
}
SDF = """water
  by hand

  3  2  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.1190 O   0  0  0  0  0  0
    0.0000    0.7630   -0.4770 H   0  0  0  0  0  0
    0.0000   -0.7630   -0.4770 H   0  0  0  0  0  0
  1  2  1  0
  1  3  1  0
M  END
> <name>
water

$$$$
"""
SMILES = "# three\nCCO ethanol\nc1cc[nH]c1 pyrrole\nC[C@H](N)C(=O)O alanine\n"
LAMMPS = """water
3 atoms
2 atom types
0 9 xlo xhi
0 9 ylo yhi
0 9 zlo zhi

Masses

1 15.9994
2 1.008

Atoms # atomic

1 1 0.0 0.0 0.119
2 2 0.0 0.763 -0.477
3 2 0.0 -0.763 -0.477
"""


def originals(folder: Path) -> dict[str, bytes]:
    """Name -> content of whole files, one a format."""
    files = {"a.sdf": SDF.encode(), "a.data": LAMMPS.encode()}
    files |= {"a.smi": SMILES.encode(), "a.csv": b"n,smiles\n1,CCO\n2,c1cc[nH]c1\n"}
    for name, (kind, atoms) in WRITTEN.items():
        ase_write(folder / name, atoms, format=kind)
        files[name] = (folder / name).read_bytes()
    for name in ("a.cube", "CHGCAR", "a.npz", "rho.xsf"):
        volumetric.write(folder / name, small_volume(), "made up")
        files[name] = (folder / name).read_bytes()
    for entry in json.loads((DATA / "foreign" / "files.json").read_text()):
        content = gzip.decompress((DATA / "foreign" / entry["packed"]).read_bytes())
        if len(content) <= LARGEST:
            files[entry["file"]] = content
    return files


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def _flip(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content))
    return content[:place] + bytes([chance.randrange(256)]) + content[place + 1 :]


def _without(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content))
    return content[:start] + content[start + chance.randrange(1, 60) :]


def _lines(content: bytes, chance: random.Random) -> bytes:
    """A line twice, gone, or in another's place."""
    lines = content.splitlines(keepends=True)
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    how = chance.randrange(3)
    lines[one : one + 1] = [lines[one]] * 2 if how == 0 else [] if how == 1 else [lines[other]]
    return b"".join(lines)


def _word(content: bytes, chance: random.Random) -> bytes:
    """A word that is something else."""
    lines = content.splitlines(keepends=True)
    filled = [index for index, line in enumerate(lines[:60]) if line.split()]
    if not filled:  # an earlier change has left no word
        return content
    index = chance.choice(filled)
    words = lines[index].split()
    words[chance.randrange(len(words))] = chance.choice(NASTY)
    lines[index] = b" ".join(words) + b"\n"
    return b"".join(lines)


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _cut, _flip, _without, _lines, _word,
)  # fmt: skip


def _atoms(path: Path) -> list[int]:
    return [len(atoms) for _, atoms in structures.read([path])]


def _density(path: Path) -> list[int]:
    return [len(entry.volume.atoms) for entry in volumetric.entries(path)]


READERS: dict[str, Callable[[Path], list[int]]] = dict.fromkeys(
    ("CHGCAR", "a.npz", "rho.xsf"), _density
)


@contextlib.contextmanager
def _no_longer_than(seconds: float) -> Iterator[None]:
    """TimeoutError for what would never end; in the main thread alone, where signals arrive."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"not done in {seconds:g} s")

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def outcome(path: Path, whole: list[int], cut: bool) -> str:
    """``refused``, ``answered``, or what is wrong."""
    begin, said = time.process_time(), io.StringIO()
    try:
        with contextlib.redirect_stderr(said), _no_longer_than(4 * SLOWEST):
            counts = READERS.get(path.name, _atoms)(path)
    except InputError:
        counts = []
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    if time.process_time() - begin > SLOWEST:
        return f"took {time.process_time() - begin:.1f} s"
    fewer = any(n < m for n, m in zip(counts, whole, strict=False))
    if cut and fewer and "cut short" not in said.getvalue() and path.name not in OPEN_ENDED:
        return f"read {counts} of {whole} atoms"
    return "answered" if counts else "refused"


def tried(count: int, seed: int, folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Name, outcome and content of ``count`` damaged files."""
    files = originals(folder)
    whole = {}
    for name, content in files.items():
        (folder / name).write_bytes(content)
        with contextlib.redirect_stderr(io.StringIO()):
            whole[name] = READERS.get(name, _atoms)(folder / name)
    chance = random.Random(seed)
    names = sorted(files)
    for index in range(count):
        name = names[index % len(names)]
        mutate = chance.choice(MUTATIONS)
        content = mutate(files[name], chance)
        if chance.random() < 0.3 and mutate is not _cut:
            content = chance.choice(MUTATIONS[1:])(content or b"\n", chance)
        (folder / name).write_bytes(content)
        yield name, outcome(folder / name, whole[name], mutate is _cut), content


def main() -> None:
    """Counts outcomes; keeps the files that went wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9)
    options = parser.parse_args()
    begin, outcomes = time.monotonic(), Counter[str]()
    kept = Path(tempfile.mkdtemp())
    with tempfile.TemporaryDirectory() as folder:
        for name, result, content in tried(options.count, options.seed, Path(folder)):
            good = result in ("refused", "answered")
            outcomes[result if good else "wrong"] += 1
            if not good:
                (kept / f"{sum(outcomes.values())}-{name}").write_bytes(content)
                print(f"{kept}/{sum(outcomes.values())}-{name}: {result}", flush=True)
            if time.monotonic() - begin > options.seconds:
                break
    print(dict(outcomes), f"{time.monotonic() - begin:.0f} s")
    sys.exit(outcomes["wrong"] > 0)


if __name__ == "__main__":
    main()
