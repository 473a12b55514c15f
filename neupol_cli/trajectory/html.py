"""Trajectories as one web page that needs nothing else: drag turns, wheel zooms, sliders.

All panels turn together, so that models can be compared. The page holds the data as JSON and draws
on canvases with a few dozen lines of script; it works without a network.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TypedDict

import numpy as np

from neupol_cli import provenance
from neupol_cli.io.files import atomic
from neupol_cli.io.structures import short
from neupol_cli.trajectory.measures import report
from neupol_cli.trajectory.paths import Trajectory, grouped
from neupol_cli.trajectory.polarity import Polarity
from neupol_cli.trajectory.view import axes_of, half_bonds, radii_of, summary, title

STYLE = """
body { font: 14px sans-serif; margin: 1em; color: #222; background: #fff; }
header { margin-bottom: .6em; } label { margin-right: 1.5em; }
table { border-collapse: collapse; } td, th { padding: 4px 8px; text-align: center; }
th.row { text-align: right; font-weight: normal; }
canvas { touch-action: none; cursor: grab; border: 1px solid #ddd; border-radius: 4px; }
canvas { width: min(var(--side), 88vw); height: min(var(--side), 88vw); }
small { color: #555; }
"""
SIDES = {1: 560, 2: 440}  # pixels of a canvas by models in a row
NARROW = 340


SCRIPT = """
const data = JSON.parse(document.getElementById("data").textContent);
const layer = document.getElementById("layer"), magnify = document.getElementById("magnify");
let turn = [[1, 0, 0], [0, 1, 0], [0, 0, 1]], zoom = 1;
const times = (a, b) => a.map(r => b[0].map((_, j) => r.reduce((s, x, k) => s + x * b[k][j], 0)));
const seen = p => turn.map(r => r[0] * p[0] + r[1] * p[1] + r[2] * p[2]);
const shade = (c, f) => "rgb(" + c.map(x => Math.round(255 * (1 - f + f * x))).join() + ")";

function draw(canvas) {
  const m = data[canvas.dataset.panel], g = canvas.getContext("2d");
  const ratio = window.devicePixelRatio || 1, size = canvas.clientWidth;
  canvas.width = canvas.height = size * ratio;
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, size, size);
  const scale = zoom * size / (2.1 * m.reach), half = size / 2;
  const x = p => half + scale * p[0], y = p => half - scale * p[1];
  const atoms = m.atoms.map(seen), shapes = [];
  const strength = z => 1 - 0.4 * Math.min(1, Math.max(0, (m.reach - z) / (2 * m.reach)));
  m.bonds.forEach(b => {
    const from = seen(b.slice(0, 3)), to = seen(b.slice(3));
    shapes.push([(from[2] + to[2]) / 2 - 0.01, () => {
      g.strokeStyle = shade([.6, .6, .6], strength(from[2]));
      g.lineWidth = 0.16 * scale; g.lineCap = "butt"; g.beginPath();
      g.moveTo(x(from), y(from)); g.lineTo(x(to), y(to)); g.stroke();
    }]);
  });
  atoms.forEach((p, i) => shapes.push([p[2], () => {
    g.fillStyle = shade(m.colours[i], strength(p[2])); g.strokeStyle = "#666"; g.lineWidth = 1;
    g.beginPath(); g.arc(x(p), y(p), m.radii[i] * scale, 0, 7); g.fill(); g.stroke();
  }]));
  shapes.sort((a, b) => a[0] - b[0]).forEach(s => s[1]());
  const last = Math.min(+layer.value, m.paths[0].length - 1), f = +magnify.value;
  g.strokeStyle = g.fillStyle = "#8b0000"; g.lineWidth = 1.5;
  m.paths.forEach((path, i) => {
    const way = path.slice(0, last + 1).map(d => seen(m.atoms[i].map((c, k) => c + f * d[k])));
    g.beginPath(); way.forEach(p => g.lineTo(x(p), y(p))); g.stroke();
    way.slice(1).forEach((p, t) => {
      g.beginPath(); g.arc(x(p), y(p), t + 2 > last ? 3 : 1.5, 0, 7); g.fill();
    });
  });
}

const canvases = [...document.querySelectorAll("canvas")];
function all() {
  canvases.forEach(draw);
  document.getElementById("layer-now").textContent = layer.value;
  document.getElementById("magnify-now").textContent = magnify.value;
}
function rotate(dx, dy) {
  const [a, b] = [dy / 120, dx / 120];
  const [c, s, d, t] = [Math.cos(a), Math.sin(a), Math.cos(b), Math.sin(b)];
  turn = times([[1, 0, 0], [0, c, -s], [0, s, c]], times([[d, 0, t], [0, 1, 0], [-t, 0, d]], turn));
  all();
}
canvases.forEach(canvas => {
  canvas.tabIndex = 0;
  canvas.addEventListener("pointerdown", e => canvas.setPointerCapture(e.pointerId));
  canvas.addEventListener("pointermove", e => { if (e.buttons) rotate(e.movementX, e.movementY); });
  canvas.addEventListener("wheel", e => {
    e.preventDefault(); zoom *= Math.exp(-e.deltaY / 800); all();
  }, { passive: false });
  canvas.addEventListener("dblclick", () => {
    turn = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]; zoom = 1; all();
  });
  canvas.addEventListener("keydown", e => {
    const steps = {
      ArrowLeft: [-9, 0], ArrowRight: [9, 0], ArrowUp: [0, -9], ArrowDown: [0, 9]
    }, step = steps[e.key];
    if (step) { e.preventDefault(); rotate(...step); }
  });
});
[layer, magnify].forEach(slider => slider.addEventListener("input", all));
window.addEventListener("resize", all);
all();
"""


class Panel(TypedDict):
    """What one canvas draws, in coordinates of the page: right, up, towards the eye (Angstrom).

    atoms (A, 3), radii (A,), colours (A, 3); bonds (M, 6), half of each from start to middle;
    paths (A, T, 3) relative to the atoms; reach: how far from the centre anything is.
    """

    atoms: list[list[float]]
    radii: list[float]
    colours: list[list[float]]
    bonds: list[list[float]]
    paths: list[list[list[float]]]
    reach: float


def write(
    path: Path,
    trajectories: Sequence[Trajectory],
    magnify: float,
    beside: Sequence[Polarity] = (),
) -> None:
    """Writes the page.

    Raises:
        StorageError: it cannot be written.
    """
    with atomic(path) as partial:
        partial.write_text(page(trajectories, magnify, beside), encoding="utf-8")


def page(
    trajectories: Sequence[Trajectory], magnify: float, beside: Sequence[Polarity] = ()
) -> str:
    """The whole page: a row of canvases a structure, a column a model.

    ``beside``: of every structure what its atoms are coloured by in a canvas before the others.
    """
    columns = grouped(trajectories)
    rows = list(zip(*columns.values(), strict=True))
    panels: list[Panel] = []
    body = ""
    for k, row in enumerate(rows):
        body += _row(row, len(panels), beside[k : k + 1])
        panels += [_coloured(row[0], polarity) for polarity in beside[k : k + 1]]
        panels += [_panel(trajectory) for trajectory in row]
    heads = [*(one.title for one in beside[:1]), *(title(group[0]) for group in columns.values())]
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    last = max(len(trajectory.points) for trajectory in trajectories) - 1
    # "<" is escaped so that no name in the data can end the script element.
    data = json.dumps(panels, separators=(",", ":")).replace("<", "\\u003c")
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{provenance.meta()}<title>Movable points</title><style>{STYLE}</style></head>
<body style="--side:{SIDES.get(len(heads), NARROW)}px">
<header>
<label>layer <input id="layer" type="range" min="0" max="{last}" value="{last}">
<output id="layer-now"></output></label>
<label>paths times <input id="magnify" type="range" min="0.1" max="{max(20, magnify):g}"
 step="0.1" value="{magnify:g}"> <output id="magnify-now"></output></label>
<small>drag or arrow keys: turn; wheel: zoom; double click: back.
Dark red: where each atom's movable point goes, layer by layer.</small>
</header>
<table><tr><th></th>{head}</tr>{body}</table>
<script id="data" type="application/json">{data}</script>
<script>{SCRIPT}</script>
</body></html>
"""


def _row(row: Sequence[Trajectory], first: int, beside: Sequence[Polarity]) -> str:
    texts = [polarity.summary() for polarity in beside]
    texts += [summary(report(trajectory)) for trajectory in row]
    cells = "".join(
        f'<td><canvas data-panel="{first + k}"></canvas><br><small>{escape(text)}</small></td>'
        for k, text in enumerate(texts)
    )
    return f'<tr><th class="row">{escape(short(row[0].label))}</th>{cells}</tr>'


def _panel(trajectory: Trajectory) -> Panel:
    from ase.data.colors import jmol_colors

    view = axes_of(trajectory.atoms)
    centre = trajectory.atoms.positions.mean(0)
    atoms = (trajectory.atoms.positions - centre) @ view.T
    starts, middles = (ends @ view.T for ends in half_bonds(trajectory))
    moves = (trajectory.points - trajectory.points[:1]) @ view.T  # (T, A, 3)
    radii = radii_of(trajectory.atoms)
    return {
        "atoms": _rounded(atoms).tolist(),
        "radii": _rounded(radii).tolist(),
        "colours": _rounded(jmol_colors[trajectory.atoms.numbers]).tolist(),
        "bonds": _rounded(np.concatenate((starts, middles), axis=1)).tolist(),
        "paths": _rounded(moves.transpose(1, 0, 2)).tolist(),
        "reach": float((np.linalg.norm(atoms, axis=1) + radii).max() + 0.3),
    }


def _coloured(trajectory: Trajectory, polarity: Polarity) -> Panel:
    """The same molecule in other colours, its points where they begin."""
    panel = _panel(trajectory)
    panel["colours"] = _rounded(polarity.colours).tolist()
    panel["paths"] = [path[:1] for path in panel["paths"]]
    return panel


def _rounded(values: np.ndarray) -> np.ndarray:
    """To a ten-thousandth of an Angstrom, which no eye can tell."""
    return np.round(values, 4)
