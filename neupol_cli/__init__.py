"""neupol: molecular properties, forces and electron densities from equivariant networks."""

from __future__ import annotations

__version__ = "0.1.0"
