"""A small copy of what QM9's authors published, and what `neupol data info` says of a file."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neupol_cli.datasets import qm9

Run = Callable[..., "subprocess.CompletedProcess[str]"]
HEAD = "gdb {}\t157.7\t157.7\t157.7\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749"
TAIL = "\t-40.47893\t-40.476062\t-40.475117\t-40.498597\t6.469\t"
METHANE = """C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689
H\t 0.002150416\t-0.0060313176\t 1.97612*^-6\t 0.133921
H\t 1.0117308433\t 1.4637511618\t 0.0002765748\t 0.133922
H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923
H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923
1341.307\t1341.3284
C\tC
InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4
"""
ATOMREF = "Ele- ZPVE U\nment Hartree\n=====\n" + "".join(
    f" {symbol} 0.0 {' '.join(str(qm9.ATOMS[name][k]) for name in ('U0', 'U', 'H', 'G', 'Cv'))}\n"
    for k, symbol in enumerate("HCNOF")
)


def gdb_text(index: int) -> str:
    return f"5\n{HEAD.format(index)}{TAIL}\n{METHANE}"


def original_files(folder: Path, count: int = 12) -> Path:
    """A small copy of what QM9's authors published, number 3 marked as uncharacterised."""
    folder.mkdir()
    for index in range(1, count + 1):
        (folder / f"dsgdb9nsd_{index:06d}.xyz").write_text(gdb_text(index))
    (folder / "uncharacterized.txt").write_text("heading\n" * 9 + "  3  CCC  CCC  0.1\n====\n")
    (folder / "atomref.txt").write_text(ATOMREF)
    return folder


def info(neupol: Run, path: Path) -> dict[str, Any]:
    done = neupol("data", "info", path, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
