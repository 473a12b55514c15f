"""A headless Chromium that does what it is told through its driver (W3C WebDriver: JSON)."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from urllib.request import Request, urlopen

import numpy as np

DRIVER = shutil.which("chromedriver")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
ARGUMENTS = [
    "--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--window-size=500,560", "--host-resolver-rules=MAP * ~NOTFOUND",
]  # fmt: skip
PATIENCE = 90  # seconds, of a machine that is busy with other work


class Browser:
    """One window, without a network: ``with Browser() as browser: browser.show(path)``."""

    def __enter__(self) -> Self:
        assert DRIVER is not None and CHROMIUM is not None
        self.driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
        try:
            assert self.driver.stdout is not None
            lines = (re.search(r"successfully on port (\d+)", line) for line in self.driver.stdout)
            port = next(filter(None, lines))[1]
            self.place = f"http://127.0.0.1:{port}/session"
            self.place += "/" + self._post("", capabilities=_capabilities())["sessionId"]
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        try:
            self._send(Request(self.place, method="DELETE"))
        finally:
            self._end()

    def _end(self) -> None:
        self.driver.terminate()
        self.driver.communicate(timeout=60)

    def _post(self, path: str, **body: Any) -> Any:
        data = json.dumps(body).encode()
        return self._send(Request(self.place + path, data, {"Content-Type": "application/json"}))

    @staticmethod
    def _send(request: Request) -> Any:
        with urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)["value"]

    def show(self, path: Path) -> None:
        """Open a page."""
        self._post("/url", url=path.as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self._post("/execute/sync", script=script, args=list(arguments))

    def until(self, found: Callable[[], Any]) -> Any:
        """The first answer that is true of something that is asked again and again."""
        end = time.monotonic() + PATIENCE
        while not (answer := found()):
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.2)
        return answer

    def drag(self, start: tuple[int, int], way: tuple[int, int]) -> None:
        """Press the mouse's button at a place, move it, and let go."""
        to = {
            "type": "pointerMove",
            "x": start[0] + way[0],
            "y": start[1] + way[1],
            "duration": 300,
        }
        self._mouse(_move(*start), _button("Down"), to, _button("Up"))

    def point(self, x: int, y: int) -> None:
        """Move the mouse there."""
        self._mouse(_move(x + 1, y), _move(x, y))

    def _mouse(self, *actions: dict[str, Any]) -> None:
        self._post("/actions", actions=[{"type": "pointer", "id": "mouse", "actions": actions}])

    def pixels(self) -> np.ndarray:
        """(height, width, 3) of the window, 0 to 255."""
        from PIL import Image

        png = self._send(Request(f"{self.place}/screenshot"))
        image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
        return np.asarray(image).astype(int)

    def errors(self) -> list[str]:
        """What went wrong, as the console says."""
        logged = self._post("/se/log", type="browser")
        return [entry["message"] for entry in logged if entry["level"] not in ("INFO", "DEBUG")]


def _move(x: int, y: int) -> dict[str, Any]:
    return {"type": "pointerMove", "x": x, "y": y, "duration": 50}


def _button(way: str) -> dict[str, Any]:
    return {"type": f"pointer{way}", "button": 0}


def _capabilities() -> dict[str, Any]:
    chromium = {"args": ARGUMENTS, "binary": CHROMIUM}
    logging = {"browser": "ALL"}
    return {"alwaysMatch": {"goog:chromeOptions": chromium, "goog:loggingPrefs": logging}}
