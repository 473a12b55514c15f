"""Files that ten programs write here, read by neupol and by code that shares nothing with it.

    python benchmarks/foreign.py [PROGRAM ...] [--work FOLDER] [--keep]

CP2K, Quantum ESPRESSO, ABINIT, GPAW, Psi4, NWChem, xtb, Elk and MOPAC are Debian's packages, PySCF
is the one beside neupol; each computes a water molecule or two atoms of silicon in seconds
(foreign_inputs.py). Structures must be what the program was told, or says itself, and densities
have the electrons and the centre that the file's raw numbers have. Prints the table of
results/foreign.md; ``--keep`` packs the files into tests/data/foreign with what they hold. Exit
code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import foreign_inputs as inputs
import numpy as np

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "tests" / "data" / "foreign"
BOHR = 0.529177210903  # Angstrom
TABLE = (
    "program", "file", "structures", "error, Angstrom", "electrons", "of the raw numbers",
    "refused as a density",
)  # fmt: skip
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | {
    "OMP_NUM_THREADS": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}


@dataclass
class Expected:
    """What a file holds: the structure of its frame ``frame``, and of a density its sums.

    Attributes:
        file: its name within the program's folder.
        symbols, positions: of the atoms, Angstrom.
        cell: (3,3) Angstrom of what is periodic, or None.
        frames: how many structures there are.
        frame: which of them this is.
        refused: what neupol has to say of a file that is no whole density.
        electrons, centre: of a cube or an xsf, by `RAW`.
    """

    file: str
    symbols: str
    positions: list[list[float]]
    cell: list[list[float]] | None = None
    frames: int = 1
    frame: int = 0
    refused: str = ""
    electrons: float = 0.0
    centre: tuple[float, ...] = ()


def run(folder: Path, *command: str, stdin: str | None = None) -> str:
    """What a program prints; SystemExit where it cannot be started."""
    if shutil.which(command[0]) is None:
        raise SystemExit(f"{command[0]} is not installed")
    done = subprocess.run(
        ["nice", "-n", "10", *command], cwd=folder, env=CLEAN, input=stdin, text=True,
        capture_output=True, timeout=600, check=False,
    )  # fmt: skip
    (folder / "log").write_text(done.stdout + done.stderr)
    return done.stdout


def water(file: str, periodic: bool = False, **more: int | str) -> Expected:
    """A file of the molecule as the program was told it."""
    cell = inputs.BOX.tolist() if periodic else None
    return Expected(file, "OHH", inputs.WATER.tolist(), cell, **more)  # type: ignore[arg-type]


def silicon(file: str, fractions: np.ndarray = inputs.SILICON, **more: int) -> Expected:
    """A file of the crystal, its atoms at these fractions of the vectors."""
    places = (fractions @ inputs.CELL).tolist()
    return Expected(file, "SiSi", places, inputs.CELL.tolist(), **more)


def last_xyz(path: Path) -> list[list[float]]:
    """Places of the last three atoms of a file of rows ``element x y z``."""
    return [
        [float(word) for word in row.split()[1:4]] for row in path.read_text().splitlines()[-3:]
    ]


def cp2k(folder: Path) -> list[Expected]:
    (folder / "water.inp").write_text(inputs.filled(inputs.CP2K))
    run(folder, "cp2k.psmp", "-i", "water.inp", "-o", "water.out")
    end = last_xyz(folder / "water-pos-1.xyz")
    return [
        water("water-pos-1.xyz", frames=3),
        Expected("water-1.restart", "OHH", end, inputs.BOX.tolist()),
        water("water-ELECTRON_DENSITY-1_0.cube"),
    ]


def espresso(folder: Path) -> list[Expected]:
    (folder / "si.pwi").write_text(inputs.filled(inputs.PW))
    (folder / "si.pwo").write_text(run(folder, "pw.x", "-in", "si.pwi"))
    for number, name in (("6", "si.cube"), ("5", "si.xsf")):
        (folder / "pp.in").write_text(inputs.filled(inputs.PP, number=number, name=name))
        run(folder, "pp.x", "-in", "pp.in")
    rows = (folder / "si.pwo").read_text().split("ATOMIC_POSITIONS (crystal)\n")[-1].splitlines()
    end = np.array([row.split()[1:4] for row in rows[:2]], dtype=float)
    return [
        silicon("si.pwi"),
        silicon("si.pwo", frames=3),
        silicon("si.xsf", end),
        silicon("si.cube", end),
    ]


def abinit(folder: Path) -> list[Expected]:
    (folder / "si.abi").write_text(inputs.filled(inputs.ABINIT))
    run(folder, "abinit", "si.abi")
    run(folder, "cut3d", stdin="sio_DS1_DEN\n14\nsi.cube\n0\n")
    run(folder, "cut3d", stdin="sio_DS1_DEN\n9\nsi.xsf\nn\n0\n")
    return [silicon(f"si.{ending}") for ending in ("abi", "abo", "xsf", "cube")]


def gpaw(folder: Path) -> list[Expected]:
    (folder / "input.xyz").write_text(inputs.filled(inputs.XTB))
    (folder / "water.py").write_text(inputs.filled(inputs.GPAW))
    run(folder, "/usr/bin/python3", "water.py")
    return [water("water.txt", periodic=True), water("water.cube")]


def pyscf(folder: Path) -> list[Expected]:
    (folder / "water.py").write_text(inputs.filled(inputs.PYSCF))
    run(folder, sys.executable, "water.py")
    return [water("water.xyz"), water("water.cube")]


def psi4(folder: Path) -> list[Expected]:
    (folder / "water.dat").write_text(inputs.filled(inputs.PSI4))
    run(folder, "psi4", "water.dat", "water.out")
    return [water("water.xyz"), water("Dt.cube"), water("Da.cube", refused="Property: Da")]


def nwchem(folder: Path) -> list[Expected]:
    (folder / "water.nw").write_text(inputs.filled(inputs.NWCHEM))
    (folder / "water.nwo").write_text(run(folder, "nwchem", "water.nw"))
    return [water("water.nwo"), water("water.cube")]


def xtb(folder: Path) -> list[Expected]:
    (folder / "water.xyz").write_text(inputs.filled(inputs.XTB))
    (folder / "cube.inp").write_text(inputs.XTB_CUBE)
    run(folder, "xtb", "water.xyz", "--input", "cube.inp")
    run(folder, "xtb", "water.xyz", "--opt", "--grad")
    end = last_xyz(folder / "xtbopt.xyz")
    cycles = (folder / "xtbopt.log").read_text().count("energy:")
    return [
        water("xtbopt.log", frames=cycles),
        Expected("xtbopt.xyz", "OHH", end),
        Expected("gradient", "OHH", end),
        water("density.cub", refused="spin/fo density"),
    ]


def elk(folder: Path) -> list[Expected]:
    """Elk moves its atoms so that the inversion is at the origin."""
    (folder / "elk.in").write_text(inputs.filled(inputs.ELK))
    run(folder, "elk-lapw")
    half = (inputs.SILICON[1] - inputs.SILICON[0] - 1.0) / 2
    return [silicon("GEOMETRY.OUT", np.array([-half, half]))]


def mopac(folder: Path) -> list[Expected]:
    """MOPAC relaxes a molecule, and takes it in a box as it is."""
    for name, job in (("water", inputs.MOPAC), ("box", inputs.MOPAC_BOX)):
        (folder / f"{name}.mop").write_text(inputs.filled(job))
        run(folder, "mopac", f"{name}.mop")
    rows = (folder / "water.arc").read_text().split("FINAL GEOMETRY OBTAINED\n")[1].splitlines()
    end = [[float(word) for word in row.split()[1:6:2]] for row in rows[3:6]]
    return [
        water("water.mop"),
        Expected("water.out", "OHH", end),
        Expected("water.arc", "OHH", end),
        *(water(f"box.{ending}", periodic=True) for ending in ("mop", "out", "arc")),
    ]


# Function, and Debian's package that says the version.
PROGRAMS: dict[str, tuple[Callable[[Path], list[Expected]], str]] = {
    "CP2K": (cp2k, "cp2k"),
    "Quantum ESPRESSO": (espresso, "quantum-espresso"),
    "ABINIT": (abinit, "abinit"),
    "GPAW": (gpaw, "gpaw"),
    "PySCF": (pyscf, ""),
    "Psi4": (psi4, "psi4"),
    "NWChem": (nwchem, "nwchem"),
    "xtb": (xtb, "xtb"),
    "Elk": (elk, "elk-lapw"),
    "MOPAC": (mopac, "mopac"),
}


def version(package: str) -> str:
    """Of a program, without what Debian appends."""
    if not package:
        import pyscf as module

        return str(module.__version__)
    words = ["dpkg-query", "-W", "-f", "${Version}", package]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    return re.sub(r"^\d+:|[-+].*", "", said)


def raw_cube(text: str) -> tuple[float, tuple[float, ...]]:
    """Electrons, and the centre of their charge in Angstrom, out of the numbers of a cube."""
    lines = text.splitlines()
    head = [line.split() for line in lines[2:6]]
    shape = [int(words[0]) for words in head[1:]]
    steps = np.array([words[1:4] for words in head[1:]], dtype=float)
    first = 6 + int(head[0][0])
    values = np.array(" ".join(lines[first:]).split(), dtype=float).reshape(shape)
    index = np.indices(shape).reshape(3, -1).T
    points = np.array(head[0][1:4], dtype=float) + index @ steps
    centre = BOHR * values.reshape(-1) @ points / values.sum()
    return float(values.sum() * abs(np.linalg.det(steps))), tuple(centre.tolist())


def raw_xsf(text: str) -> tuple[float, tuple[float, ...]]:
    """The same of an xsf in e/bohr^3, with lengths in Angstrom and the first planes once more."""
    lines = text.splitlines()
    head = next(k for k, line in enumerate(lines) if "DATAGRID_3D_" in line and "BLOCK" not in line)
    end = next(k for k, line in enumerate(lines) if "END_DATAGRID" in line)
    n1, n2, n3 = (int(word) for word in lines[head + 1].split())
    rows = [line.split() for line in lines[head + 2 : head + 6]]
    origin, *span = np.array(rows, dtype=float)
    words = np.array(" ".join(lines[head + 6 : end]).split(), dtype=float)
    values = words.reshape(n3, n2, n1)[:-1, :-1, :-1]  # the first index is the fastest
    steps = np.array(span) / np.array([[n1 - 1], [n2 - 1], [n3 - 1]])
    index = np.indices(values.shape).reshape(3, -1).T[:, ::-1]
    centre = values.reshape(-1) @ (origin + index @ steps) / values.sum()
    return float(values.sum() * abs(np.linalg.det(steps / BOHR))), tuple(centre.tolist())


RAW = {".cube": raw_cube, ".cub": raw_cube, ".xsf": raw_xsf}


def apart(found: np.ndarray, expected: Expected) -> float:
    """Largest distance of an atom from its place, Angstrom, in the nearest image of the cell."""
    move = np.asarray(found) - np.array(expected.positions)
    if expected.cell is not None:
        fractions = move @ np.linalg.inv(expected.cell)
        move = (fractions - fractions.round()) @ np.array(expected.cell)
    return float(np.linalg.norm(move, axis=1).max())


def row(program: str, folder: Path, expected: Expected) -> tuple[bool, str]:
    """Whether neupol reads a file as it should, and its line of the table."""
    from neupol_cli.io import structures, volumetric
    from neupol_cli.io.volumetric import plausible

    path = folder / expected.file
    frames = [atoms for _, atoms in structures.read([path])]
    atoms = frames[expected.frame]
    error = apart(atoms.positions, expected)
    good = error < 2e-4 and len(frames) == expected.frames
    good &= "".join(atoms.get_chemical_symbols()) == expected.symbols
    if expected.cell is not None:
        error = max(error, float(np.abs(atoms.cell.array - expected.cell).max()))
        good &= bool(atoms.pbc.all()) and error < 2e-4
    words = [program, expected.file, str(len(frames)), f"{error:.1e}"]
    if path.suffix not in RAW:
        return good, " | ".join([*words, "", "", ""])
    expected.electrons, expected.centre = RAW[path.suffix](path.read_text())
    volume = volumetric.read(path)
    index = np.indices(volume.grid.shape).reshape(3, -1).T
    points = volume.grid.origin + index @ volume.grid.step
    centre = volume.values.reshape(-1) @ points / volume.values.sum()
    reason = plausible.reason_against(volume) or ""
    good &= abs(volume.electrons - expected.electrons) < 1e-6
    good &= bool(np.abs(centre - expected.centre).max() < 1e-6)
    good &= expected.refused in reason if expected.refused else not reason
    words += [f"{volume.electrons:.6f}", f"{expected.electrons:.6f}", reason]
    return good, " | ".join(words)


def keep(program: str, folder: Path, expected: Expected) -> dict[str, object]:
    """A packed copy for the tests, and its entry in their list."""
    name = f"{program.replace(' ', '')}/{expected.file}.gz"
    (KEPT / name).parent.mkdir(parents=True, exist_ok=True)
    packed = gzip.compress((folder / expected.file).read_bytes(), mtime=0)
    (KEPT / name).write_bytes(packed)
    return asdict(expected) | {"packed": name}


def list_kept(entries: list[dict[str, object]]) -> None:
    """Entries of the programs that ran in place of their earlier ones; of others, these stay."""
    place = KEPT / "files.json"
    ran = {str(entry["packed"]).partition("/")[0] for entry in entries}
    earlier = json.loads(place.read_text()) if place.exists() else []
    others = [entry for entry in earlier if entry["packed"].partition("/")[0] not in ran]
    place.write_text(json.dumps(others + entries, indent=1) + "\n")


def main() -> None:
    """Runs the programs, compares, and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("programs", nargs="*", default=[], metavar="PROGRAM")
    parser.add_argument("--work", type=Path, help="folder of the runs [default: a temporary one]")
    parser.add_argument("--keep", action="store_true", help="make their tests/data/foreign anew")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp())
    entries, failed = [], False
    print(
        "program | file | frames | error, A | electrons | of the raw numbers | refused as density"
    )
    print("|".join(["---"] * 7))
    for program in options.programs or PROGRAMS:
        function, package = PROGRAMS[program]
        folder = work / function.__name__
        folder.mkdir(parents=True)
        for expected in function(folder):
            good, line = row(f"{program} {version(package)}", folder, expected)
            print(line if good else f"{line} | DIFFERS", flush=True)
            failed |= not good
            entries += [keep(program, folder, expected)] if options.keep else []
    if options.keep:
        list_kept(entries)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
