"""What people do every day, done as they do it and checked: lists of SMILES through a pipe, an SDF
with ids and measured values, outputs made again, frequencies and dynamics beside ASE's.

    OMP_NUM_THREADS=1 python benchmarks/everyday.py runs/ethanol

The model is one that has learnt ethanol's forces, as those of `fine_tuning.py`. Each line printed
is one of the record; what is not as it should be ends the script.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
import subprocess
import sys
import tempfile
from itertools import islice, product
from pathlib import Path

import ase.io
import h5py
import numpy as np
import torch
from ase import Atoms, units
from ase.constraints import FixCom
from ase.md.verlet import VelocityVerlet
from ase.vibrations import Vibrations

from neupol_cli.calculator import NeupolCalculator

BROKEN = ("C1CC", "c1ccccc", "C(C)(C)(C)(C)C", "*C", "CC>>C", "not_one", "C(", "[Zz]", "C(C", "[C")
EXAMPLE = Path(__file__).parents[1] / "examples" / "ethanol.xyz"


def neupol(
    *words: object, text: str = "", code: int = 0, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """A command line with a text on its standard input, and the exit code that it has to have."""
    command = [sys.executable, "-m", "neupol_cli", *map(str, words)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == code, (words, done.returncode, done.stderr[-2000:])
    return done


def molecules(count: int) -> list[str]:
    """Small ones: chains and rings between two groups."""
    heads = ("O", "N", "F", "N#C", "O=C", "OC(=O)", "NC(=O)", "CO", "C=C", "C#C", "CN", "CC(=O)")
    tails = ("O", "N", "F", "C#N", "C=O", "C(=O)O", "C(=O)N", "OC", "C=C", "C(C)C")
    middles = ("C", "CC", "CCC", "CC(C)C", "C1CC1", "c1ccccc1", "C=C", "CCCC", "COC")
    return list(islice(map("".join, product(heads, middles, tails)), count))


def pipe() -> None:
    """1,000 lines of which 20 are no SMILES: who is answered, in which order, under which name."""
    good = molecules(980)
    lines = [f"{word} mol-{k}" for k, word in enumerate(good)]
    places = [49 * k + 7 for k in range(20)]
    for k, place in enumerate(places):
        lines.insert(place, f"{BROKEN[k % len(BROKEN)]} bad-{k}")
    text = "\n".join(lines) + "\n"
    done = neupol("predict", "-", "--json", "--on-error", "skip", text=text)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    skipped = [line for line in done.stderr.splitlines() if line.endswith("(skipped)")]
    assert [int(line.split(":")[2]) - 1 for line in skipped] == places
    kept = [k for k in range(1000) if k not in places]
    assert [one["structure"] for one in said] == [f"-#{k}" for k in kept]
    assert [one["info"]["comment"] for one in said] == [lines[k].split()[1] for k in kept]
    assert [one["info"]["smiles"] for one in said] == good
    first = neupol("predict", "-", text=text, code=65).stderr.splitlines()[-1]
    assert first.startswith(f"neupol: -:{places[0] + 1}: '{BROKEN[0]}'")
    print(f"- pipe: {len(said)} answers in order with their names, {len(skipped)} lines refused by "
          f"number, exit 0; without `--on-error skip` exit 65 at line {places[0] + 1}")  # fmt: skip


def sdf_text(count: int) -> str:
    """Records of molecules with an id and a measured value each."""
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom

    text = io.StringIO()
    with Chem.SDWriter(text) as writer:
        for k, word in enumerate(molecules(count)):
            molecule = Chem.AddHs(Chem.MolFromSmiles(word))
            rdDistGeom.EmbedMolecule(molecule, randomSeed=k)
            molecule.SetProp("_Name", f"name {k}")
            molecule.SetProp("ID", f"X-{k:04d}")
            molecule.SetProp("logP", f"{k / 100 - 2:.2f}")
            writer.write(molecule)
    return text.getvalue()


def sdf(folder: Path) -> None:
    """500 records: ids and values in every output that has a place for them."""
    path, count = folder / "library.sdf", 500
    path.write_text(sdf_text(count))
    wanted = [(f"X-{k:04d}", round(k / 100 - 2, 2), f"name {k}") for k in range(count)]
    for ending in ("extxyz", "csv", "h5"):
        neupol("predict", path, "-o", folder / f"out.{ending}")
    infos = [atoms.info for atoms in ase.io.read(folder / "out.extxyz", ":")]
    infos_of_json = [
        json.loads(line)["info"] for line in neupol("predict", path, "--json").stdout.splitlines()
    ]
    with (folder / "out.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    with h5py.File(folder / "out.h5") as file:
        infos_of_hdf5 = [json.loads(line) for line in file["info"][()].tobytes().splitlines()]
    lines = neupol("predict", path).stdout.splitlines()
    table = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    infos_of_table = [json.loads(row["info"]) for row in table]
    for found in (infos, infos_of_json, rows, infos_of_hdf5, infos_of_table):
        assert [(i["ID"], float(i["logP"]), i["comment"]) for i in found] == wanted
    print(f"- SDF: {count} records; ID, logP and title in extended xyz, JSON, CSV, HDF5 and "
          "tab-separated lines, in order")  # fmt: skip


def again(folder: Path) -> None:
    """Outputs made again from what they say of themselves."""
    outputs = [f"out.{ending}" for ending in ("extxyz", "csv", "h5")]
    outputs += ["conformers.extxyz", "ethanol.cube", "long.cube"]
    neupol("predict", "OCCO", "CCO", "--conformers", 10, "-o", outputs[-3], cwd=folder)
    shutil.copy(EXAMPLE, folder)
    neupol("density", EXAMPLE.name, "--spacing", 0.4, "-o", outputs[-2], cwd=folder)
    neupol("density", EXAMPLE, "--spacing", 0.4, "-o", folder / outputs[-1], cwd=folder)
    assert (folder / "long.cube.provenance").is_file()  # a command line with long paths
    for output in outputs:
        neupol("rerun", output, cwd=folder)
    names = ", ".join(f"`{output}`" for output in outputs)
    print(f"- rerun: {names}: equal byte for byte, exit 0")


def relaxed(model: Path, folder: Path) -> Path:
    path = folder / "minimum.extxyz"
    neupol("relax", EXAMPLE, "-m", model, "--dtype", "float64", "--fmax", 1e-4, "-o", path)
    return path


def calculated(path: Path, model: Path) -> Atoms:
    """The structure of a file with the calculator."""
    atoms = ase.io.read(path)
    assert isinstance(atoms, Atoms)
    return Atoms(
        atoms.numbers, atoms.positions, calculator=NeupolCalculator(str(model), dtype=torch.float64)
    )


def frequencies(minimum: Path, model: Path, folder: Path) -> None:
    """Ethanol's, from `neupol vib` and from ASE."""
    words = ("--dtype", "float64", "--delta", 0.01, "--json")
    done = neupol("vib", minimum, "-m", model, *words)
    modes = json.loads(done.stdout)["modes"]
    ours = np.array([m["wavenumber_per_cm"] * (-1 if m["imaginary"] else 1) for m in modes])[6:]
    by_hand = Vibrations(calculated(minimum, model), name=str(folder / "vib"), delta=0.01)
    by_hand.run()
    theirs = by_hand.get_frequencies()[6:]
    apart = np.abs(ours - theirs.real).max()
    print(f"- vib: ethanol's 21 frequencies, {ours.min():.1f} to {ours.max():.1f} /cm, are at most "
          f"{apart:.1e} /cm from ASE's Vibrations")  # fmt: skip
    assert apart < 1e-6


def dynamics(minimum: Path, model: Path, folder: Path, femtoseconds: int) -> None:
    """NVE of ethanol at half a femtosecond, from `neupol md` and from ASE."""
    steps, seed = 2 * femtoseconds, 3
    words = ("--dtype", "float64", "--timestep", 0.5, "--steps", steps, "--every", 10)
    neupol("md", minimum, "-m", model, *words, "--seed", seed, "-o", folder / "run", "--accept")
    with (folder / "run" / "energies.tsv").open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    ours = np.array([float(row["total_eV"]) for row in rows])
    atoms = calculated(minimum, model)
    atoms.set_constraint(FixCom())
    random = np.random.default_rng([seed, 0])
    widths = np.sqrt(atoms.get_masses() * units.kB * 300)
    atoms.set_momenta(random.standard_normal((len(atoms), 3)) * widths[:, None])
    theirs: list[float] = []
    verlet = VelocityVerlet(atoms, 0.5 * units.fs)
    verlet.attach(lambda: theirs.append(atoms.get_total_energy()), interval=10)
    verlet.run(steps)
    last = ase.io.read(folder / "run" / "trajectory.extxyz", -1)
    apart = np.abs(last.positions - atoms.positions).max()
    energy = np.abs(ours - theirs).max()
    print(f"- md: {femtoseconds} fs of NVE, {steps} steps: energies at most {energy:.1e} eV and "
          f"the last positions {apart:.1e} Angstrom from ASE's VelocityVerlet; the total energy "
          f"stays within {np.ptp(ours) * 1000:.2f} meV")  # fmt: skip
    assert energy < 1e-8 and apart < 1e-7  # extended xyz has eight digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--femtoseconds", type=int, default=10_000, help="of dynamics")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pipe()
        sdf(folder)
        again(folder)
        minimum = relaxed(options.model, folder)
        frequencies(minimum, options.model, folder)
        dynamics(minimum, options.model, folder, options.femtoseconds)


if __name__ == "__main__":
    main()
