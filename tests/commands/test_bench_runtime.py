"""neupol bench-runtime as a user runs it, and the measuring behind it on known costs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch

from neupol_cli import checkpoint, registry
from neupol_cli.commands import bench_runtime
from neupol_cli.errors import TemporaryError, UsageError
from neupol_cli.io import soundness
from neupol_cli.io.volumetric import by_spacing
from neupol_cli.runtime import cases, job, timing
from neupol_cli.runtime.cases import Conditions, Subject, System, Work
from neupol_cli.training.presets import presets

Run = Callable[..., Any]
CPU = Conditions("cpu", 1 << 30, 0.5)
SIZES = ("--alkanes", "1,2,4", "--repeats", 2, "--device", "cpu")


@pytest.fixture(scope="module")
def densities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small density network with random weights, as `fit` saves one; it knows H and C."""
    torch.manual_seed(0)
    config = {"species": (1, 6), "mul": 8, "lmax": 1, "layers": 1, "hidden": 8}
    path = tmp_path_factory.mktemp("model") / "rho.safetensors"
    network = registry.build("charge3net", config)
    checkpoint.save(path, "charge3net", network, {"targets": {"density": "e/Angstrom^3"}})
    return path


def test_densities_properties_and_forces_as_json_file_and_picture(
    neupol: Run, untrained: Callable[..., Path], densities: Path, tmp_path: Path
):
    output, plot = tmp_path / "f.json", tmp_path / "f.png"
    done = neupol(
        "bench-runtime", *SIZES, "-m", untrained("egnn"), "-m", densities, "--spacing", 0.8,
        "--json", "-o", output, "--plot", plot,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads(output.read_text())
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert found["environment"]["threads"] == 1
    assert found["environment"]["torch"] == torch.__version__
    assert found["environment"]["processor"]
    answers = [series["answers"] for series in found["series"]]
    assert answers == ["properties", "properties, forces", "density"]
    for series in found["series"]:
        assert [point["atoms"] for point in series["points"]] == [5, 8, 14]
        assert series["fit"]["error"] >= 0
        assert all(len(p["seconds"]) == 2 and p["warmed_up"] for p in series["points"])
        assert all(p["peak_memory_bytes"] > 1e7 for p in series["points"])
    rate = found["series"][2]["points"][1]
    assert rate["probes_per_second"] == pytest.approx(rate["points"] / rate["median_s"])
    assert not rate["scaled"]


def test_supercells_of_a_file_in_a_table(neupol: Run, densities: Path, tmp_path: Path):
    cell = tmp_path / "cell.extxyz"
    atoms = cases.alkane(1)
    atoms.set_cell([4.0, 4.0, 4.0])
    atoms.pbc = True
    ase.io.write(cell, atoms)
    call = ("bench-runtime", cell, "--supercells", "2,1", "--repeats", 1, "-m", densities)
    done = neupol(*call, "--spacing", 1.0)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert f"{cell} supercells" in done.stdout
    rows = [line.split() for line in lines if line[:4].strip().isdecimal()]
    assert [row[:2] for row in rows] == [["1", "5"], ["2", "40"]]
    assert "MB" in rows[0]
    assert "p = " in lines[-1] and "two sizes: no uncertainty" in lines[-1]


def test_a_networks_name_is_timed_untrained_and_others_on_alkanes(
    neupol: Run, densities: Path
) -> None:
    call = ("bench-runtime", "--supercells", "1", "--repeats", 1, "--spacing", 2.0, "--json")
    done = neupol(*call, "-m", "deepdft-schnet", "-m", densities, "--alkanes", "1")
    assert done.returncode == 0, done.stderr
    crystal, chain = json.loads(done.stdout)["series"]
    assert crystal["system"] == "BaVS3 supercells"
    assert crystal["points"][0]["atoms"] == 10
    assert "untrained" in crystal["notes"][0]
    assert chain["system"] == "alkanes"
    assert "has not seen S V Ba" in chain["notes"][0]


def test_a_preset_is_timed_at_its_size() -> None:
    molecules = cases.alkanes([1])
    energy, forces = cases.subjects("et-md17", lambda: molecules, molecules, CPU)
    assert (energy.answers, forces.answers) == ("properties", "properties, forces")
    assert energy.notes == ("untrained: random weights of this preset's size",)
    built = cases._random(presets()["et-md17"], "property", {1, 6}, "cpu")
    defaults, chosen = registry.defaults("equivariant-transformer"), presets()["et-md17"].settings
    sizes = {key: getattr(built.config, key) for key in ("hidden", "layers")}
    assert sizes == {"hidden": 128, "layers": 6} != {key: defaults[key] for key in sizes}
    assert all(getattr(built.config, key) == value for key, value in chosen.items())


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--supercells", "1,x"), 2, "--supercells takes positive numbers"),
        (("--alkanes", "0"), 2, "--alkanes takes positive numbers"),
        (("--minutes", "0"), 2, "--minutes"),
        (("--dft", "gaussian"), 2, "--dft knows pyscf"),
        (("--plot", "f.bmp"), 2, "f.bmp"),
        (("-o", "nowhere/f.json"), 2, "nowhere"),
        (("--memory", "much"), 2, "--memory"),
        (("-m", "nothing"), 65, "nothing: neither a file"),
        (("-m", "egnn-nbody"), 2, "moves particles"),
        (("nowhere.xyz",), 65, "nowhere.xyz"),
        (("water.xyz", "--supercells", "2"), 2, "no crystal"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: tuple[str, ...],
    code: int,
    said: str,
):
    from neupol_cli import app

    monkeypatch.chdir(tmp_path)
    Path("water.xyz").write_text("3\nwater\nO 0 0 0.1\nH 0 0.8 -0.5\nH 0 -0.8 -0.5\n")
    assert app._run(["bench-runtime", *words]) == code
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.count("\n") == 1 and not shown.out


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3.14e-5, "31.4 us"), (0.5, "500 ms"), (12.34, "12.3 s"), (1234.0, "1,234 s"),
        (9000.0, "2.5 hours"), (4.5e6, "52.1 days"), (7.67e7, "2.43 years"), (4e10, "1,267 years"),
    ],
)  # fmt: skip
def test_a_duration_has_the_unit_that_fits(value: float, shown: str) -> None:
    assert job.duration(value) == shown


def test_without_pyscf_the_way_to_it_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyscf", None)
    with pytest.raises(UsageError, match=r"pip install 'neupol\[dft\]'"):
        cases.pyscf(cases.alkanes([1]), 0.5)


def test_dft_on_the_same_molecules_and_where_they_meet(densities: Path):
    pytest.importorskip("pyscf")
    chains = cases.alkanes([1])
    reference = cases.pyscf(chains, 0.8)
    ours = cases.subjects(str(densities), None, chains, CPU)
    slow, fast = job.run([reference, *ours], CPU, 60.0, 1)
    assert slow["points"][0]["median_s"] > fast["points"][0]["median_s"]
    assert "pbe / gth-pbe / gth-dzvp" in slow["notes"][0]
    laws = ({"exponent": 3.0, "factor": 1e-3}, {"exponent": 1.0, "factor": 1.6})
    for report, law in zip((slow, fast), laws, strict=True):
        report["fit"] = law | {"error": None, "smallest": 5, "largest": 20}
    (found,) = job.crossings([slow, fast])
    assert found["atoms"] == pytest.approx(40.0)
    assert found["extrapolated"]
    assert "extrapolated from the two fits" in job.meeting(found)


def test_the_fit_finds_a_known_power_and_its_uncertainty():
    atoms = np.array([2, 10, 20, 40, 80])
    cost = 3e-4 * atoms**1.7
    cost[0] = 5.0  # what any call costs; too small a size to count
    found = timing.fit(atoms, cost)
    assert found is not None and found.error is not None
    assert found.exponent == pytest.approx(1.7, abs=1e-12)
    assert found.error < 1e-12
    assert (found.smallest, found.largest) == (10, 80)
    assert found.seconds(160) == pytest.approx(3e-4 * 160**1.7)
    assert timing.fit([5], [1.0]) is None
    two = timing.fit([5, 10], [1.0, 4.0])
    assert two is not None and two.error is None
    assert two.exponent == pytest.approx(2.0)


def test_measuring_warms_up_repeats_and_ends_in_time():
    calls: list[float] = []

    def work() -> float:
        calls.append(time.sleep(0.01) or 0.01)
        return float(len(calls))

    found = timing.measure(work, 3, 10.0, "cpu")
    assert found.seconds == [2.0, 3.0, 4.0]
    assert (found.warmed_up, found.median, found.spread) == (True, 3.0, 2.0)
    short = timing.measure(work, 3, 0.005, "cpu")
    assert (len(short.seconds), short.warmed_up) == (1, False)


def test_peak_memory_is_that_of_the_work():
    timing.reset_peak("cpu")
    before = timing.peak("cpu")
    np.ones(25_000_000).sum()  # 200 MB
    assert 190e6 < timing.peak("cpu") - before < 300e6


def subject(work: Callable[[int], float], sizes: tuple[int, ...]) -> Subject:
    system = System("alkanes", sizes, cases.alkane)
    return Subject("it", "properties", system, lambda atoms: Work(lambda: work(len(atoms))), 2.0)


def test_a_size_beyond_memory_or_time_says_so_and_the_rest_goes_on():
    def work(atoms: int) -> float:
        if atoms == 8:
            raise TemporaryError("out of memory on 8 atoms")
        time.sleep(0.01 * atoms)
        return 0.01 * atoms

    report = job.Series(subject(work, (1, 2, 3, 4_000)), CPU, 1).run(60.0)
    assert [point["atoms"] for point in report["points"]] == [5, 11]
    first, last = report["skipped"]
    assert first["reason"] == "out of memory on 8 atoms"
    assert last["atoms"] == 12_002 and "s are left" in last["reason"]
    rows = job.table(report)
    assert rows.row_count == 4


def test_a_bug_is_not_taken_for_missing_memory():
    def work(atoms: int) -> float:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        job.Series(subject(work, (1,)), CPU, 1).run(600.0)


def test_alkanes_are_sound_molecules():
    for carbons in (1, 2, 7):
        atoms = cases.alkane(carbons)
        soundness.check(atoms, "alkane")
        assert len(atoms) == 3 * carbons + 2
        distances = atoms.get_all_distances()
        bonded = (distances[:carbons] < 1.6).sum(axis=1) - 1
        assert (bonded == 4).all()
        hydrogens = distances[carbons:, carbons:] + 9 * np.eye(2 * carbons + 2)
        assert hydrogens.min() > 1.7


def test_a_large_grid_is_sampled_within_itself():
    atoms = cases.bavs3().repeat(2)
    assert atoms.get_chemical_formula() == "Ba16S48V16"
    grid = by_spacing(atoms, 0.3, 3.6)
    assert cases.sampled(grid, 10, 0) == [grid]
    blocks = cases.sampled(grid, 10, 0, largest=40_000)
    assert [block.shape for block in blocks] == [(10, 10, 10)] * 10
    inverse = np.linalg.inv(grid.step)
    for block in blocks:
        corner = np.rint((block.origin - grid.origin) @ inverse)
        assert (corner >= 0).all() and (corner + 10 <= grid.shape).all()


def test_sampled_blocks_are_scaled_to_the_whole(monkeypatch: pytest.MonkeyPatch):
    class Model:
        """Takes a microsecond a point, by its own account."""

        def atom_features(self, atoms: Any) -> None:
            return None

        def density_grid(self, features: None, grid: Any, memory: int) -> None:
            return None

    clock = iter([(0.5, None), (2.0, None)])
    monkeypatch.setattr(cases, "timed", lambda work, device: next(clock))
    crystal = cases.bavs3().repeat(10)
    work = cases.density_work(Model(), crystal, CPU)
    assert work.facts["scaled"]
    share = work.facts["points"] / work.facts["computed_points"]
    assert work.run() == pytest.approx(0.5 + 2.0 * share)
    assert bench_runtime.counts("1, 2", "--supercells") == (1, 2)
