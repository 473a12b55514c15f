"""``python -m neupol_cli`` is ``neupol``."""

from __future__ import annotations

from neupol_cli.app import main

if __name__ == "__main__":
    main()
