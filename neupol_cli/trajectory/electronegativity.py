"""Pauling's electronegativities, as the CRC Handbook lists them, to xenon."""

from __future__ import annotations

import numpy as np
from ase.data import chemical_symbols

from neupol_cli.errors import InputError

_TABLE = """
H 2.20 Li 0.98 Be 1.57 B 2.04 C 2.55 N 3.04 O 3.44 F 3.98 Na 0.93 Mg 1.31 Al 1.61 Si 1.90 P 2.19
S 2.58 Cl 3.16 K 0.82 Ca 1.00 Sc 1.36 Ti 1.54 V 1.63 Cr 1.66 Mn 1.55 Fe 1.83 Co 1.88 Ni 1.91
Cu 1.90 Zn 1.65 Ga 1.81 Ge 2.01 As 2.18 Se 2.55 Br 2.96 Kr 3.00 Rb 0.82 Sr 0.95 Y 1.22 Zr 1.33
Nb 1.6 Mo 2.16 Tc 2.10 Ru 2.2 Rh 2.28 Pd 2.20 Ag 1.93 Cd 1.69 In 1.78 Sn 1.96 Sb 2.05 Te 2.1 I 2.66
Xe 2.6
"""
_WORDS = _TABLE.split()
PAULING = {symbol: float(value) for symbol, value in zip(_WORDS[::2], _WORDS[1::2], strict=True)}


def of_elements(numbers: np.ndarray) -> np.ndarray:
    """(A,) of atoms' elements, from atomic numbers (A,).

    Raises:
        InputError: an element that the table does not have.
    """
    symbols = [chemical_symbols[number] for number in numbers]
    missing = sorted(set(symbols) - set(PAULING))
    if missing:
        raise InputError(f"there is no electronegativity of {', '.join(missing)} here")
    return np.array([PAULING[symbol] for symbol in symbols])
