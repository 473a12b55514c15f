"""The table of Wigner 3j symbols holds e3nn's, in every order of their columns."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import torch
from e3nn.o3 import wigner_3j as published

from neupol_cli.models.nn.wigner import LMAX, TABLE, wigner_3j
from tests.models.nn.wigner_table import make


def test_the_table_is_what_e3nn_makes() -> None:
    expected = make()
    with np.load(TABLE) as table:
        assert set(table) == set(expected)
        for name, symbol in expected.items():
            np.testing.assert_allclose(table[name], symbol, rtol=0, atol=1e-15)


def test_columns_stand_in_every_order() -> None:
    for l1, l2, l3 in itertools.product(range(5), repeat=3):
        if abs(l1 - l2) <= l3 <= l1 + l2:
            expected = published(l1, l2, l3, dtype=torch.float64)
            torch.testing.assert_close(wigner_3j(l1, l2, l3), expected, rtol=0, atol=1e-15)


def test_beyond_the_table_e3nn_is_asked() -> None:
    degrees = (LMAX, 1, LMAX + 1)
    expected = published(*degrees, dtype=torch.float64)
    torch.testing.assert_close(wigner_3j(*degrees), expected, rtol=0, atol=1e-15)


def test_no_network_needs_e3nn_to_be_built() -> None:
    code = (
        "import sys\nfrom neupol_cli import registry\n"
        "registry.load('density')\n"
        "raise SystemExit(any(name.split('.')[0] in ('e3nn', 'sympy') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
