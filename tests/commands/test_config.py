"""``--config`` as a user has it: results, pipes, resumed runs, and what is wrong in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands.test_predict import WATER

FRAMES = "".join(
    f"2\nenergy={-1.0 - 0.1 * k}\nH 0 0 0\nH 0 0 {0.7 + 0.02 * k}\n" for k in range(12)
)


def predicted(neupol: Any, *words: Any, **more: Any) -> list[dict[str, Any]]:
    done = neupol("predict", *words, **more)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [{k: v for k, v in record.items() if k != "provenance"} for record in found]


def test_a_file_says_what_the_command_line_says(
    neupol: Any, untrained: Any, tmp_path: Path
) -> None:
    models = [untrained(seed=1), untrained(seed=2)]
    (tmp_path / "water.xyz").write_text(WATER)
    file = tmp_path / "it.toml"
    file.write_text(
        f'files = ["{tmp_path}/water.xyz"]\n'
        f'model = ["{models[0]}", "{models[1]}"]\njson = true\nthreads = 1\n'
    )
    words = (tmp_path / "water.xyz", "-m", models[0], "-m", models[1], "--json", "--threads", 1)
    assert predicted(neupol, "--config", file) == predicted(neupol, *words)
    one = predicted(neupol, tmp_path / "water.xyz", "-m", models[1], "--json")
    assert predicted(neupol, "--config", file, "-m", models[1]) == one


def test_a_pipe_on_either_side(neupol: Any, untrained: Any, tmp_path: Path) -> None:
    model = untrained()
    file = tmp_path / "it.toml"
    file.write_text(f'model = "{model}"\njson = true\n')
    expected = predicted(neupol, "-", "-m", model, "--json", input=WATER * 2)
    assert predicted(neupol, "-", "--config", file, input=WATER * 2) == expected
    (tmp_path / "water.xyz").write_text(WATER * 2)
    from_stdin = predicted(
        neupol, tmp_path / "water.xyz", "--config", "/dev/stdin", input=file.read_text()
    )
    assert [record["properties"] for record in from_stdin] == [
        record["properties"] for record in expected
    ]


def test_a_run_begins_and_goes_on(neupol: Any, tmp_path: Path) -> None:
    data, run, file = tmp_path / "h2.h5", tmp_path / "run", tmp_path / "fit.toml"
    made = neupol("data", "xyz", "-", "-o", data, "--partition", "8,2", input=FRAMES)
    assert made.returncode == 0, made.stderr
    file.write_text(
        'model = "egnn"\ndata = "h2.h5"\noutput = "run"\nset = ["hidden=8", "layers=1"]\n'
        'target = "energy"\nsteps = 3\nbatch-size = 4\nsave-every = 2\nlr = 2e-3\n'
    )
    begun = neupol("fit", "--config", file, cwd=tmp_path)
    assert begun.returncode == 0, begun.stderr
    options = json.loads((run / "config.json").read_text())["options"]
    chosen = {"set_": ["hidden=8", "layers=1"], "target": ["energy"], "steps": 3, "lr": 2e-3}
    chosen |= {"save_every": "2", "batch_size": 4, "epochs": None, "data": str(data)}
    assert {name: options[name] for name in chosen} == chosen
    on = neupol("fit", "--resume", "--config", file, "--steps", 5, "--json", cwd=tmp_path)
    assert on.returncode == 0 and json.loads(on.stdout)["steps"] == 5, on.stderr
    assert "steps: 5 (was 3)" in on.stderr and "lr" not in on.stderr.split("resuming")[0]
    file.write_text(file.read_text().replace("batch-size = 4", "batch-size = 2"))
    other = neupol("fit", "--resume", "--config", file, cwd=tmp_path)
    assert other.returncode == 2 and "begun with --batch-size 4" in other.stderr


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("modle = 'qm9'", "it.toml: neupol predict has no option 'modle'; the nearest is 'model'"),
        ("on_error = 'skip'", "has no option 'on_error'; the nearest is 'on-error'"),
        ("part = 'test'", "has no option 'part'"),  # of earlier versions
        ("[predict]\njson = true", "has no option 'predict'"),
        ("threads = 'two'", "it.toml: threads: "),
        ("threads = 0", "it.toml: threads: "),
        ("threads = [1]", "it.toml: threads: takes a text or a number, not an array"),
        ("charge = true", "it.toml: charge: takes a text or a number, not true or false"),
        ("charge = 1979-05-27", "it.toml: charge: takes a text or a number, not a time"),
        ("json = 1", "it.toml: json: 1 is neither true nor false"),
        ("model = [['qm9']]", "it.toml: model: takes a text or a number, not an array"),
        ("model = {a = 1}", "it.toml: model: takes a text or a number, not a table"),
        ("on-error = 'perhaps'", "it.toml: on-error: "),
        ("files = []", "it.toml: files: nothing is named"),
        ('model = "a\\u0000b"', "it.toml: model: a text has no character of code zero"),
        ("model = ", "--config it.toml: is no TOML: "),
        ("\udcff", "--config it.toml: is no TOML: "),
        ("a = " + "[" * 5000, "--config it.toml: is no TOML: "),
        (None, "--config it.toml: No such file or directory"),
    ],
)
def test_what_is_wrong_is_one_line(
    text: str | None, reason: str, neupol: Any, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "it.toml").write_bytes(text.encode(errors="surrogateescape"))
    done = neupol("predict", "-", "--config", "it.toml", input=WATER, cwd=tmp_path)
    assert done.returncode == 2 and not done.stdout
    assert reason in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_folder_is_no_file(neupol: Any, tmp_path: Path) -> None:
    done = neupol("predict", "-", "--config", ".", input=WATER, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "neupol: --config .: Is a directory\n")


def test_help_shows_it(neupol: Any) -> None:
    for command in (["predict"], ["fit"], ["data", "xyz"]):
        assert "FILE.toml" in neupol(*command, "--help").stdout
