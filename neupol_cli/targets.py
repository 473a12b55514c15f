"""The targets that networks learn, one record each: the table of models/targets.py, by this name.

It lies with the networks because they read it, and they import nothing from here but errors.
"""

from neupol_cli.models.targets import ENERGIES, FORCES, QM9, TARGETS, Target, target

__all__ = ["ENERGIES", "FORCES", "QM9", "TARGETS", "Target", "target"]
