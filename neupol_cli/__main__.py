"""``neupol`` and ``python -m neupol_cli``: signals are taken up before all other imports."""

from __future__ import annotations

import gc
import os
import sys

from neupol_cli import signals


def main() -> None:
    """The command line, as a process of its own; does not return."""
    signals.install()
    # What imports make stays: to look through it again and again is a tenth of torch's import.
    gc.set_threshold(50_000)
    try:
        from neupol_cli.app import main as command_line
    except SystemExit as end:
        signals.explain(sys.argv[1:])
        os._exit(signals.final(end.code if isinstance(end.code, int) else 1))
    command_line()


if __name__ == "__main__":
    main()
