"""``neupol md`` as a user runs it: known energies, and runs that go on to the same bytes."""

from __future__ import annotations

import csv
import io
import json
import shutil
import signal
from pathlib import Path

import ase
import numpy as np
import pytest
from ase import units
from ase.constraints import FixCom
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet

from neupol_cli.calculator import NeupolCalculator
from neupol_cli.io import structures
from tests.simulation import harmonic
from tests.simulation.harmonic import LENGTH, STIFFNESS, domain_of, saved

REDUCED = 15.999 * 1.008 / (15.999 + 1.008)  # u
STRETCHED = 0.1  # Angstrom
AT_REST = f"2\ncharge=-1\nO 0 0 0\nH 0 0 {LENGTH + STRETCHED}\n"
WATER = "3\n\nO 0 0 0\nH 0.6 0.9 0\nH -0.5 0.9 0.1\n"
FILES = ("trajectory.extxyz", "energies.tsv", "last.state")
CUBE = 'Lattice="{0} 0 0 0 {0} 0 0 0 {0}"'
CRYSTAL = f"2\n{CUBE.format(2.1)}\nO 0 0 0\nH 1.05 0 0\n"
SAVES = "from neupol_cli.simulation import dynamics\ndynamics.SAVE_SECONDS = 0.0\n"
# After so many frames, a kill in the middle of writing one: half of it is there.
KILLED = (
    SAVES
    + """
import os
before, frames = dynamics.write_frame, []
def write_frame(stream, *words):
    frames.append(stream)
    if len(frames) == {frames}:
        stream.write("half a fra")
        stream.flush()
        os.kill(os.getpid(), {number})
    before(stream, *words)
dynamics.write_frame = write_frame
"""
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("springs") / "model.safetensors")


def energies(folder: Path) -> dict[str, np.ndarray]:
    with (folder / "energies.tsv").open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def test_verlets_energy_on_a_spring(model: Path, tmp_path: Path) -> None:
    """Velocity Verlet conserves p^2/2m + k/2 x^2 (1 - (w dt / 2)^2), and no E of larger order."""
    amplitudes = []
    for timestep in (0.2, 0.4):
        words = ["--timestep", timestep, "--time", "40fs", "--every", 1, "--temperature", 0]
        done = harmonic.neupol("md", "-", "-m", model, "-o", tmp_path / f"{timestep}", *words,
                               "--json", input=AT_REST)  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        log = energies(tmp_path / f"{timestep}")
        half = np.sqrt(STIFFNESS / REDUCED) * timestep * units.fs / 2
        shadow = log["kinetic_eV"] + log["potential_eV"] * (1 - half**2)
        np.testing.assert_allclose(shadow, shadow[0], rtol=0, atol=1e-11)
        assert shadow[0] == pytest.approx(STIFFNESS / 2 * STRETCHED**2 * (1 - half**2), abs=1e-12)
        amplitudes.append(np.ptp(log["total_eV"]) / half**2)
        slope = np.polyfit(log["time_fs"], log["total_eV"], 1)[0] * 1e6 / 2
        found = json.loads(done.stdout)
        assert found["drift_meV_per_atom_ps"] == pytest.approx(slope, rel=1e-5)
        assert found["complete"] and found["frames"] == round(40 / timestep) + 1
    # The order is two: what is left over is how near a step comes to the middle of the spring.
    assert amplitudes[0] == pytest.approx(amplitudes[1], rel=0.02)


@pytest.mark.parametrize("thermostat", ["", "langevin"])
def test_it_is_what_ase_does_by_hand(model: Path, tmp_path: Path, thermostat: str) -> None:
    words = ["--ensemble", "nvt", "--thermostat", thermostat] if thermostat else []
    words += ["--steps", "20", "--every", "5", "--seed", "3", "-o", tmp_path / "run"]
    assert harmonic.neupol("md", "-", "-m", model, *words, input=WATER).returncode == 0
    log = energies(tmp_path / "run")
    random = np.random.default_rng([3, 0])
    positions = [[0, 0, 0], [0.6, 0.9, 0], [-0.5, 0.9, 0.1]]
    atoms = ase.Atoms(
        "OH2", positions, constraint=FixCom(), calculator=NeupolCalculator(harmonic.built())
    )
    widths = np.sqrt(atoms.get_masses() * units.kB * 300)
    atoms.set_momenta(random.standard_normal((3, 3)) * widths[:, None])
    if thermostat:
        friction = 0.01 / units.fs
        dynamics = Langevin(atoms, 0.5 * units.fs, temperature_K=300, friction=friction,
                            fixcm=False, rng=random)  # fmt: skip
    else:
        dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    found = []
    dynamics.attach(lambda: found.append(atoms.get_total_energy()), interval=5)
    dynamics.run(20)
    np.testing.assert_allclose(log["total_eV"], found, rtol=0, atol=1e-10)
    assert log["temperature_K"][-1] == pytest.approx(
        2 * atoms.get_kinetic_energy() / (6 * units.kB), abs=1e-8
    )
    frames = [frame for _, frame in structures.read([tmp_path / "run" / "trajectory.extxyz"])]
    assert [frame.info["step"] for frame in frames] == [0, 5, 10, 15, 20]
    np.testing.assert_allclose(frames[-1].positions, atoms.positions, rtol=0, atol=1e-8)
    np.testing.assert_allclose(frames[-1].get_momenta(), atoms.get_momenta(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("words", [[], ["--ensemble", "nvt"]], ids=["nve", "langevin"])
def test_a_killed_run_goes_on_to_the_same_bytes(
    model: Path, tmp_path: Path, words: list[str]
) -> None:
    words = ["md", "-", "-m", model, *words, "--steps", "40", "--every", "3"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert harmonic.neupol(*words, "-o", whole, input=WATER).returncode == 0
    before = KILLED.format(frames=6, number=9)
    assert harmonic.neupol(*words, "-o", cut, input=WATER, before=before).returncode == -9
    assert (cut / "trajectory.extxyz").read_text().endswith("half a fra")
    again = harmonic.neupol("md", "--resume", "-o", cut)
    assert (again.returncode, again.stderr) == (0, "")
    for file in FILES:
        assert (cut / file).read_bytes() == (whole / file).read_bytes(), file
    frames = [frame for _, frame in structures.read([cut / "trajectory.extxyz"])]
    assert [frame.info["step"] for frame in frames] == list(range(0, 40, 3))
    assert len({frame.positions.tobytes() for frame in frames}) == len(frames)


def test_a_signal_says_how_to_go_on(model: Path, tmp_path: Path) -> None:
    words = ["md", "-", "-m", model, "--ensemble", "nvt", "--every", "2"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert harmonic.neupol(*words, "--steps", "30", "-o", whole, input=WATER).returncode == 0
    before = KILLED.format(frames=5, number=int(signal.SIGTERM))
    done = harmonic.neupol(*words, "--steps", "20", "-o", cut, input=WATER, before=before)
    assert done.returncode == 143
    assert done.stderr == f"stopped; go on with: neupol md --resume -o {cut}\n"
    assert harmonic.neupol("md", "--resume", "-o", cut).returncode == 0
    assert harmonic.neupol("md", "--resume", "-o", cut, "--time", "15fs").returncode == 0
    for file in FILES:
        assert (cut / file).read_bytes() == (whole / file).read_bytes(), file
    assert not list(cut.glob("*.partial"))


def test_a_cell_that_moves(tmp_path: Path) -> None:
    alone = {"targets": ["energy"], "units": ["eV"], "outputs": []}
    model = saved(tmp_path / "m.safetensors", cutoff=1.4, **alone)
    words = ["--ensemble", "npt", "--temperature", "60", "--steps", "20", "-o", tmp_path / "run"]
    assert harmonic.neupol("md", "-", "-m", model, *words, input=CRYSTAL).returncode == 0
    volumes = energies(tmp_path / "run")["volume_Angstrom3"]
    frames = [frame for _, frame in structures.read([tmp_path / "run" / "trajectory.extxyz"])]
    assert volumes[0] == pytest.approx(2.1**3, abs=1e-9) and np.ptp(volumes) > 1e-3
    np.testing.assert_allclose([f.get_volume() for f in frames], volumes, rtol=0, atol=1e-6)
    assert frames[0].info["stress_eV_per_Angstrom3"].shape == (3, 3)


def test_held_atoms_stay(model: Path, tmp_path: Path) -> None:
    held = (
        "3\nProperties=species:S:1:pos:R:3:move_mask:L:1\n"
        "O 0 0 0 F\nH 0.6 0.9 0 T\nH -0.5 0.9 0.1 T\n"
    )
    for thermostat in ("langevin", "bussi"):
        words = ["--ensemble", "nvt", "--thermostat", thermostat, "--steps", "20", "--json"]
        folder = tmp_path / thermostat
        done = harmonic.neupol("md", "-", "-m", model, "-o", folder, *words, input=held)
        assert done.returncode == 0
        frames = [frame for _, frame in structures.read([folder / "trajectory.extxyz"])]
        for frame in frames:
            assert frame.positions[0].tolist() == frame.get_momenta()[0].tolist() == [0, 0, 0]
        assert abs(frames[-1].positions[1] - frames[0].positions[1]).max() > 1e-3
    words = ["--ensemble", "nvt", "--thermostat", "nose-hoover", "--steps", "1"]
    done = harmonic.neupol("md", "-", "-m", model, "-o", tmp_path / "n", *words, input=held)
    assert done.returncode == 65 and "take langevin or bussi" in done.stderr


def test_velocities_of_a_file_are_taken(model: Path, tmp_path: Path) -> None:
    first, second, whole = (tmp_path / name for name in ("first", "second", "whole"))
    words = ["-m", model, "--every", "10"]
    harmonic.neupol("md", "-", *words, "--steps", "20", "-o", whole, input=WATER)
    harmonic.neupol("md", "-", *words, "--steps", "10", "-o", first, input=WATER)
    last = (first / "trajectory.extxyz").read_text().splitlines(keepends=True)[-5:]
    done = harmonic.neupol("md", "-", *words, "--steps", "10", "-o", second, input="".join(last))
    assert done.returncode == 0
    # As near as the eight digits of the file.
    ends = [energies(folder)["kinetic_eV"][-1] for folder in (second, whole)]
    assert ends[0] == pytest.approx(ends[1], abs=1e-6)


def test_where_the_domain_ends_it_stops(tmp_path: Path) -> None:
    short = [ase.Atoms("OH", [[0, 0, 0], [0, 0, d]], info={"charge": -1}) for d in (0.9, 1.1)]
    model = saved(tmp_path / "m.safetensors", {"domain": domain_of(short)})
    inside = AT_REST.replace(str(LENGTH + STRETCHED), "1.0")  # swings out to 1.2
    words = ["md", "-", "-m", model, "--time", "30fs", "--every", "1", "--temperature", "0"]
    done = harmonic.neupol(*words, "-o", tmp_path / "a", "--json", input=inside)
    found = json.loads(done.stdout)
    assert done.returncode == 0 and not found["complete"] and 0 < found["steps"] < 60
    assert f"stopped at step {found['steps']}, where it left the model's domain; a bond" in (
        done.stderr
    )
    frames = [frame for _, frame in structures.read([tmp_path / "a" / "trajectory.extxyz"])]
    lengths = [frame.get_distance(0, 1) for frame in frames]
    assert len(frames) == found["steps"] + 1
    assert lengths[-2] <= 1.13 < lengths[-1] < 1.18  # 0.03 beyond the longest are allowed
    done = harmonic.neupol(*words, "-o", tmp_path / "b", "--strict", input=inside)
    assert done.returncode == 65
    done = harmonic.neupol("md", "--resume", "-o", tmp_path / "a", "--accept", "--json")
    assert json.loads(done.stdout)["complete"]
    assert done.stderr.startswith("neupol: -: doubtful: a bond")  # where it is at the end
    outside = AT_REST.replace(str(LENGTH + STRETCHED), "1.17")
    done = harmonic.neupol(*words, "-o", tmp_path / "c", "--strict", input=outside)
    assert done.returncode == 65 and "a bond" in done.stderr
    assert not (tmp_path / "c").exists()


def test_several_structures_at_a_time(model: Path, tmp_path: Path) -> None:
    words = ["-m", model, "--ensemble", "nvt", "--steps", "10"]
    two = tmp_path / "two"
    done = harmonic.neupol("md", "-", *words, "-o", two, "--threads", "2", input=WATER + WATER)
    rows = list(csv.DictReader(io.StringIO(done.stdout), delimiter="\t"))
    assert done.returncode == 0 and [row["structure"] for row in rows] == ["-#0", "-#1"]
    texts = [(two / f"trajectory-{k}.extxyz").read_text() for k in range(2)]
    assert texts[0].splitlines()[2] != texts[1].splitlines()[2]  # velocities of their own
    harmonic.neupol("md", "-", *words, "-o", tmp_path / "one", "--threads", "1", input=WATER)
    alone = (tmp_path / "one" / "trajectory.extxyz").read_text()
    assert texts[0].replace("structure=-#0", "structure=-") == alone
    done = harmonic.neupol("md", "--resume", "-o", two, "--steps", "23", "--json")
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(end["steps"], end["time_fs"], end["frames"]) for end in ends] == [(23, 11.5, 3)] * 2


def test_refusals(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert harmonic.neupol("md", "-", "-m", model, "--steps", "1", "-o", run, input=WATER,
                           ).returncode == 0  # fmt: skip
    for words, code, reason in (
        (["-o", run, "--steps", "1"], 2, f"{run}: holds a run; --resume -o {run} goes on"),
        (["-o", tmp_path / "a"], 2, "say how long: --time 10ps, or --steps"),
        (["-o", tmp_path / "a", "--time", "1.2fs"], 2, "no whole number of steps of 0.5 fs"),
        (["-o", tmp_path / "a", "--time", "long"], 2, "--time takes such as 500fs"),
        (["-o", tmp_path / "a", "--time", "1ps", "--steps", "1"], 2, "say the same"),
        (["-o", tmp_path / "a", "--ensemble", "nvp", "--steps", "1"], 2, "--ensemble is one of"),
        (["-o", tmp_path / "a", "--thermostat", "bussi", "--steps", "1"], 2, "for --ensemble nvt"),
        (["-o", tmp_path / "a", "--ensemble", "npt", "--steps", "1"], 65, "periodic in 3"),
        (["-o", run, "--resume"], 2, "leave files, --model out"),
    ):
        done = harmonic.neupol("md", "-", "-m", model, *words, input=WATER)
        assert done.returncode == code and reason in done.stderr, done.stderr
        assert not (tmp_path / "a").exists()
    done = harmonic.neupol("md", "--resume", "-o", tmp_path / "a")
    assert done.returncode == 65 and "holds no run of `neupol md`" in done.stderr
    (run / "last.state").write_bytes((run / "last.state").read_bytes()[:-1] + b"x")
    assert harmonic.neupol("md", "--resume", "-o", run).returncode == 78
    other = saved(tmp_path / "other.safetensors", {"text": "another one"})
    other.replace(model)
    done = harmonic.neupol("md", "--resume", "-o", run)
    assert done.returncode == 78 and "is not what it was when the run was begun" in done.stderr


@pytest.mark.parametrize(
    ("words", "text", "reason"),
    [
        (["--timestep", "1000"], WATER, "is not at a finite place"),
        (["--ensemble", "npt", "--pressure", "1e9"], CRYSTAL, "the cell is degenerate"),
    ],
)
def test_a_dynamics_that_explodes_ends_in_one_line(
    tmp_path: Path, words: list[str], text: str, reason: str
) -> None:
    alone = {"targets": ["energy"], "units": ["eV"], "outputs": []}
    model = saved(tmp_path / "m.safetensors", cutoff=1.4, **alone)
    words = ["-m", str(model), "-o", str(tmp_path / "run"), "--steps", "2000", "--accept", *words]
    done = harmonic.neupol("md", "-", *words, input=text)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 76 and reason in line


@pytest.mark.parametrize("option", ["--timestep", "--temperature", "--pressure", "--coupling"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_conditions_are_numbers(model: Path, tmp_path: Path, option: str, value: str) -> None:
    done = harmonic.neupol(
        "md", "-", "-m", model, "-o", tmp_path / "run", "--steps", 1, option, value, input=WATER
    )
    assert done.returncode == 2 and option in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def begun(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "begun"
    words = ["-m", model, "-o", folder, "--steps", "2", "--every", "1"]
    assert harmonic.neupol("md", "-", *words, input=WATER).returncode == 0
    return folder


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"steps": 2', '"steps": "x"'),
        ('"every": 1', '"every": 0'),
        ('"structures": 1', '"structures": 100000000000'),
        ('"dtype": "float64"', '"dtype": "int8"'),
        ('"timestep": 0.5', '"timestep": "x"'),
        ('"timestep": 0.5', '"timestep": 0'),
        ('"kind": "nve"', '"kind": "npt"'),
        ('{', "[" * 100000),
    ],
)  # fmt: skip
def test_settings_that_were_edited_are_refused(
    begun: Path, tmp_path: Path, before: str, after: str
) -> None:
    run = shutil.copytree(begun, tmp_path / "run")
    text = (run / "settings.json").read_text()
    assert before in text
    (run / "settings.json").write_text(text.replace(before, after, 1))
    done = harmonic.neupol("md", "--resume", "-o", run)
    (line,) = done.stderr.splitlines()
    assert done.returncode in (2, 65, 74, 78) and "bug" not in line


@pytest.mark.parametrize("name", ["trajectory.extxyz", "energies.tsv"])
@pytest.mark.parametrize("size", [None, 0, 100])
def test_a_way_of_which_a_part_is_lost_is_not_gone_on_with(
    begun: Path, tmp_path: Path, name: str, size: int | None
) -> None:
    run = shutil.copytree(begun, tmp_path / "run")
    kept = (run / name).read_bytes()[:size] if size is not None else b""
    (run / name).unlink() if size is None else (run / name).write_bytes(kept)
    done = harmonic.neupol("md", "--resume", "-o", run, "--steps", "4")
    assert done.returncode == 78
    assert f"{run / name}: is shorter than it was when the run's state was saved" in done.stderr
    assert (run / name).exists() == (size is not None)
    assert size is None or (run / name).read_bytes() == kept


def test_a_run_that_accepts_goes_on_accepting(tmp_path: Path) -> None:
    short = [ase.Atoms("OH", [[0, 0, 0], [0, 0, d]], info={"charge": -1}) for d in (0.9, 1.1)]
    model = saved(tmp_path / "m.safetensors", {"domain": domain_of(short)})
    words = ["md", "-", "-m", model, "--steps", "60", "--every", "1", "--temperature", "0"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = harmonic.neupol(*words, "--accept", "-o", whole, input=AT_REST)
    assert done.returncode == 0
    before = KILLED.format(frames=6, number=9)
    done = harmonic.neupol(*words, "--accept", "-o", cut, input=AT_REST, before=before)
    assert done.returncode == -9
    assert harmonic.neupol("md", "--resume", "-o", cut).returncode == 0
    for file in FILES:
        assert (cut / file).read_bytes() == (whole / file).read_bytes(), file


def test_a_disk_that_is_full(model: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    words = ["md", "-", "-m", model, "--steps", "40", "--every", "1"]
    assert harmonic.neupol(*words, "-o", whole, input=WATER).returncode == 0
    small = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
    done = harmonic.neupol(*words, "-o", cut, input=WATER, before=small)
    trouble = "File too large; --resume goes on when there is room"
    assert (done.returncode, done.stderr) == (74, f"neupol: {cut}/trajectory.extxyz: {trouble}\n")
    assert harmonic.neupol("md", "--resume", "-o", cut).returncode == 0
    for file in FILES:
        assert (cut / file).read_bytes() == (whole / file).read_bytes(), file
