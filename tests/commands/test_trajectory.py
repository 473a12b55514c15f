"""neupol trajectory as a user runs it, on a small network with movable points."""

from __future__ import annotations

import io
import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.io import read
from matplotlib.image import imread

from neupol_cli import checkpoint, registry
from neupol_cli.errors import UsageError
from neupol_cli.models.nn.graph import Graph
from neupol_cli.trajectory.files import read_hdf5, writer
from neupol_cli.trajectory.paths import check_movable
from neupol_cli.trajectory.pictures import plotter
from tests.surfaces.browser import CHROMIUM, DRIVER, Browser

TWO = """3
water
O 0.0 0.0 0.119
H 0.0 0.763 -0.477
H 0.0 -0.763 -0.477
4
formaldehyde
C 0.0 0.0 -0.53
O 0.0 0.0 0.68
H 0.0 0.93 -1.11
H 0.0 -0.93 -1.11
"""


@pytest.fixture(scope="module")
def movable(tmp_path_factory):
    """Two checkpoints whose points move visibly: the start of a network barely moves any."""
    folder = tmp_path_factory.mktemp("movable")
    made = []
    for seed, target in enumerate(("homo", "zpve")):
        torch.manual_seed(seed)
        settings = {"targets": (target,), "units": ("eV",), "hidden": 8, "layers": 4}
        model = registry.build("egnn", settings | {"polarization": "movable"})
        for layer in model.backbone.layers[:-1]:
            torch.nn.init.normal_(layer.push.phi[2].weight, std=0.05)
        made.append(folder / f"{target}.safetensors")
        checkpoint.save(made[-1], "egnn", model, {"targets": {target: "eV"}})
    return made


@pytest.fixture(scope="module")
def made(neupol, movable, tmp_path_factory):
    """What two runs write: the folder, and what the first one printed."""
    folder = tmp_path_factory.mktemp("<script>alert(1)")
    two = folder / "<b>.xyz"
    two.write_text(TWO)
    files = ("-o", folder / "t.h5", "--plot", folder / "t.png", "--magnify", 5)
    first = run(neupol, two, "-m", movable[0], "-m", movable[1], *files)
    files = ("-o", folder / "t.extxyz", "--plot", folder / "t.html")
    run(neupol, two, "-m", movable[0], "-m", movable[1], *files)
    return folder, first.stdout


def run(neupol, *arguments, **settings):
    done = neupol("trajectory", *arguments, **settings)
    assert done.returncode == 0, done.stderr
    return done


def test_points_are_those_of_the_network(movable, made) -> None:
    two = made[0] / "<b>.xyz"
    stored = read_hdf5(made[0] / "t.h5")
    assert stored.labels == [f"{two}#0", f"{two}#1"]
    assert list(stored.points) == ["homo", "zpve"]
    assert stored.targets["zpve"] == ("zpve",)
    structures = read(two, index=":")
    for name, path in zip(stored.points, movable, strict=True):
        model = registry.load(str(path), dtype=torch.float64)
        with torch.no_grad():
            graph = Graph.from_atoms(structures, torch.float64)
            _, wanted = model.polarization(model.backbone, graph)
        assert stored.points[name].shape == (4, 7, 3)  # a place before each of four layers
        np.testing.assert_allclose(stored.points[name], torch.stack(wanted), rtol=0, atol=1e-5)
        np.testing.assert_array_equal(stored.points[name][0], stored.positions)
        assert np.abs(stored.points[name][-1] - stored.positions).max() > 1e-3


def test_extxyz_has_a_frame_a_layer(made) -> None:
    frames = read(made[0] / "t.extxyz", index=":")
    assert [frame.info["layer"] for frame in frames] == [0, 1, 2, 3] * 4
    first, last = frames[0], frames[3]
    assert list(first.symbols) == ["O", "H", "H", "X", "X", "X"]
    assert list(first.arrays["owner"]) == [0, 1, 2] * 2
    np.testing.assert_allclose(first.positions[3:], first.positions[:3], rtol=0, atol=1e-8)
    np.testing.assert_array_equal(first.positions[:3], last.positions[:3])
    went = last.arrays["Displacement"]
    np.testing.assert_allclose(went[3:], last.positions[3:] - last.positions[:3], rtol=0, atol=2e-8)
    assert not went[:3].any()
    assert np.abs(last.positions[3:] - last.positions[:3]).max() > 1e-3


def test_the_table_has_units(made) -> None:
    for words in ("moved (Å)", "mean by element", "mean by bond", "H-O"):
        assert words in made[1]


def test_the_picture_is_one(made) -> None:
    assert (made[0] / "t.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_page_stands_alone(made) -> None:
    page = (made[0] / "t.html").read_text()
    said = re.search('<meta name="provenance" content="([^<>"]*)">\n', page)
    assert said is not None and " trajectory " in json.loads(unescape(said[1]))["command"]
    page = page.replace(said[0], "")  # where names are as they were typed
    assert "http" not in page and "src=" not in page
    assert "<b>.xyz" not in page and "alert(1)" not in page
    data = re.search(r'type="application/json">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    panels = json.loads(data[1])
    assert len(panels) == page.count("<canvas") == 4
    assert [len(panel["paths"]) for panel in panels] == [3, 3, 4, 4]
    assert all(len(path) == 4 for panel in panels for path in panel["paths"])


def test_atoms_are_coloured_beside_paths(neupol, movable, tmp_path) -> None:
    models = ("-m", movable[0], "-m", movable[1])
    beside = ("--beside", "electronegativity")
    run(neupol, "-", *models, "--plot", tmp_path / "t.html", *beside, input=TWO)
    page = (tmp_path / "t.html").read_text()
    assert page.count("<canvas") == 6 and "<th>Pauling electronegativity</th>" in page
    data = re.search(r'type="application/json">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    water, first, _, formaldehyde, *_ = json.loads(data[1])
    assert [len(path) for path in water["paths"]] == [1, 1, 1]
    assert [len(path) for path in first["paths"]] == [4, 4, 4]
    (carbon, oxygen, *_), atoms = formaldehyde["colours"], water["atoms"]
    assert max(carbon) == min(carbon) and oxygen[0] > oxygen[2] + 0.5
    assert atoms == first["atoms"] and water["colours"] != first["colours"]
    run(neupol, "-", *models, "--plot", tmp_path / "t.png", *beside, input=TWO)
    run(neupol, "-", *models, "--plot", tmp_path / "without.png", input=TWO)
    width = {name: imread(tmp_path / name).shape[1] for name in ("t.png", "without.png")}
    assert width["t.png"] == pytest.approx(1.5 * width["without.png"], rel=0, abs=2)
    alone = neupol("trajectory", "-", *models, *beside, input=TWO)
    assert alone.returncode == 2 and "in the picture of --plot" in alone.stderr


@pytest.mark.skipif(DRIVER is None or CHROMIUM is None, reason="chromium is not installed")
def test_the_page_draws_in_a_browser(neupol, movable, tmp_path) -> None:
    """Dark red are paths: of the model's canvas, not of the one beside it."""
    options = ("-m", movable[0], "--plot", tmp_path / "t.html", "--beside", "electronegativity")
    water = TWO[: TWO.index("4\n")]
    run(neupol, "-", *options, "--magnify", 15, input=water)
    red = """
    return [...document.querySelectorAll("canvas")].map(one => {
      const { data } = one.getContext("2d").getImageData(0, 0, one.width, one.height);
      let paths = 0, drawn = 0;
      for (let k = 0; k < data.length; k += 4) {
        paths += data[k + 3] === 255 && data[k] === 139 && data[k + 1] === 0 && data[k + 2] === 0;
        drawn += data[k + 3] > 0;
      }
      return [paths, drawn];
    });
    """
    with Browser() as browser:
        browser.show(tmp_path / "t.html")
        beside, paths = browser.run(red)
        assert beside[0] == 0 and beside[1] > 1000
        assert paths[0] > 50 and paths[1] > 1000
        assert browser.errors() == []
        assert browser.run("return performance.getEntriesByType('resource').length") == 0


def test_json_from_a_pipe_and_a_bad_structure_left_out(neupol, movable, tmp_path) -> None:
    models = ("-m", movable[0], "-m", movable[1])
    argon = "1\nargon\nAr 0 0 0\n"
    rest = ("--json", "--on-error", "skip", "-o", tmp_path / "t.h5")
    done = run(neupol, "-", *models, *rest, input=argon + TWO)
    assert "Ar" in done.stderr and "(skipped)" in done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    wanted = [(f"-#{k}", model) for k in (1, 2) for model in ("homo", "zpve")]
    assert [(x["file"], x["model"]) for x in lines] == wanted
    assert [len(x["atoms"]) for x in lines] == [3, 3, 4, 4]
    assert lines[0]["layers"] == 4
    # Both hydrogens of water go alike.
    hydrogens = [atom["displacement"] for atom in lines[0]["atoms"][1:]]
    assert hydrogens[0] == pytest.approx(hydrogens[1], abs=1e-5)
    assert read_hdf5(tmp_path / "t.h5").labels == ["-#1", "-#2"]


@pytest.mark.parametrize("mode", ["movable", "late"])
def test_the_points_of_a_density_model(neupol, movable, tmp_path, mode: str) -> None:
    torch.manual_seed(0)
    sizes = {"mul": 8, "lmax": 1, "layers": 2, "basis_size": 6, "hidden": 8}
    model = registry.build("charge3net", sizes | {"polarization": mode})
    for weight in model.motion.maps:
        torch.nn.init.normal_(weight, std=3.0)
    path = tmp_path / "rho.safetensors"
    checkpoint.save(path, "charge3net", model, {"targets": {}})
    files = ("-o", tmp_path / "t.h5", "--plot", tmp_path / "t.html")
    done = run(neupol, "-", "-m", path, "-m", movable[0], "--json", *files, input=TWO)
    first = json.loads(done.stdout.splitlines()[0])
    assert (first["model"], first["targets"], first["layers"]) == ("rho", ["density"], 3)
    stored = read_hdf5(tmp_path / "t.h5").points["rho"]
    waters = read(io.StringIO(TWO), index=0, format="xyz")
    read_by_probes = model.double().atom_features(waters).points.positions[3:]
    np.testing.assert_allclose(stored[-1, :3], read_by_probes, rtol=0, atol=1e-5)
    assert np.abs(stored[-1, :3] - waters.positions).max() > 1e-3
    assert "rho: density" in (tmp_path / "t.html").read_text()
    argon = neupol("trajectory", "-", "-m", path, input="1\nargon\nAr 0 0 0\n")
    assert argon.returncode == 65 and "-: atom 1 is Ar" in argon.stderr


def test_a_density_model_without_movable_points_is_refused() -> None:
    with pytest.raises(UsageError, match="polarization is off"):
        check_movable(registry.build("charge3net", {"mul": 8, "lmax": 1}), "it")
    with pytest.raises(UsageError, match="moves no points"):
        check_movable(registry.build("egnn-nbody", {"polarization": "movable"}), "it")


def test_a_model_without_movable_points_is_refused(neupol, untrained) -> None:
    done = neupol("trajectory", "-", "-m", untrained(polarization="frozen"), input=TWO)
    assert done.returncode == 2
    assert "no movable points" in done.stderr
    assert "--polarization movable" in done.stderr


def test_an_unknown_element_is_bad_input(neupol, movable) -> None:
    done = neupol("trajectory", "-", "-m", movable[0], input=TWO.replace("C 0.0", "Ar 0.0"))
    assert done.returncode == 65
    assert "Ar" in done.stderr


@pytest.mark.parametrize("choose", [writer, plotter])
def test_an_unknown_ending_is_refused(choose) -> None:
    with pytest.raises(UsageError, match="the ending is one of"):
        choose(Path("t.docx"))


@pytest.mark.parametrize("mode", ["off", "frozen"])
def test_points_that_stay_are_refused(untrained, mode: str) -> None:
    with pytest.raises(UsageError, match=mode):
        check_movable(registry.load(str(untrained(polarization=mode))), "it")
