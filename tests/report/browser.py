"""A headless Chromium, driven over its debugging pipe: it opens pages from disk, clicks, takes screenshots, records requests."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
NO_WEBGL = ("--disable-gpu", "--disable-3d-apis")


class Browser:
    """One page in one browser; everything waits at most `patience_s`."""

    def __init__(self, flags: tuple[str, ...] = WEBGL, size: tuple[int, int] = (1280, 1000), patience_s: float = 90):
        assert CHROMIUM
        self.patience_s = patience_s
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._folder = tempfile.mkdtemp(prefix="chromium-")
        from_us, to_browser = os.pipe()
        from_browser, to_us = os.pipe()
        command = [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--remote-debugging-pipe",
            f"--user-data-dir={self._folder}", f"--window-size={size[0]},{size[1]}", "--hide-scrollbars",
            "--disable-background-networking", "--no-first-run", *flags, "about:blank",
        ]  # fmt: skip
        # Chromium reads commands from its descriptor 3 and answers on 4
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec 3<&{from_us} 4>&{to_us}; exec "$@"', "chromium", *command],
            pass_fds=(from_us, to_us),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(from_us)
        os.close(to_us)
        self._to, self._from = to_browser, from_browser
        os.set_blocking(self._from, False)
        self._buffer, self._number, self._session = b"", 0, None
        try:
            self._attach(size)
        except BaseException:
            self.close()
            raise

    def _attach(self, size: tuple[int, int]) -> None:
        """Open a page, and have the browser report what happens in it."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False
        )

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and all its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)
        os.close(self._to)
        os.close(self._from)
        shutil.rmtree(self._folder, ignore_errors=True)

    def open(self, path: Path, ready: str = "true") -> None:
        """Open a file, and wait until it is loaded and an expression is true in it."""
        address = path.resolve().as_uri()
        self.call("Page.navigate", url=address)
        self.wait(f"location.href === {json.dumps(address)} && document.readyState === 'complete' && ({ready})")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true in the page."""
        until = time.monotonic() + self.patience_s
        while not self.ask(expression):
            assert time.monotonic() < until, f"never true: {expression}; errors: {self.errors}"
            time.sleep(0.05)

    def ask(self, expression: str) -> Any:
        """Return the value of an expression in the page; wait for a promise."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, as a user does."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def click(self, selector: str, right: float = 0.5, down: float = 0.5) -> None:
        """Click into an element, at these fractions of its width and height."""
        x, y = self.ask(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}});"
            f"const b = e.getBoundingClientRect(); return [b.x + {right} * b.width, b.y + {down} * b.height]; }})()"
        )
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            held = 0 if kind == "mouseMoved" else 1
            button = "none" if kind == "mouseMoved" else "left"
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=held)

    def picture(self, path: Path, selector: str | None = None, whole: bool = False) -> Path:
        """Write a PNG of the window, of an element, or of the whole page."""
        clip = {}
        if selector or whole:
            what = f"document.querySelector({json.dumps(selector or 'html')})"
            box = self.ask(
                f"(() => {{ const b = {what}.getBoundingClientRect();"
                "return {x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height}; })()"
            )
            clip = {"clip": {**box, "scale": 1}, "captureBeyondViewport": True}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", **clip)["data"]))
        return path

    def printed(self, path: Path) -> Path:
        """Write the page as a PDF."""
        path.write_bytes(
            base64.b64decode(self.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"])
        )
        return path

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol; return its answer."""
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + self.patience_s
        while True:
            assert time.monotonic() < until, f"no answer to {method} in {self.patience_s} s"
            for answer in self._messages():
                if answer.get("id") == number:
                    assert "error" not in answer, f"{method}: {answer['error']}"
                    return answer["result"]
                self._note(answer)
            time.sleep(0.005)

    def _messages(self) -> list[dict[str, Any]]:
        with contextlib.suppress(BlockingIOError):
            self._buffer += os.read(self._from, 1 << 20)
        *whole, self._buffer = self._buffer.split(b"\0")
        return [json.loads(message) for message in whole]

    def _note(self, event: dict[str, Any]) -> None:
        """Record the requests and the errors of the page."""
        method, event_parameters = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(event_parameters["request"]["url"][:200])
        elif method == "Runtime.exceptionThrown":
            details = event_parameters["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and event_parameters["type"] in ("error", "warning", "assert"):
            self.errors.append(
                " ".join(str(one.get("value", one.get("description"))) for one in event_parameters["args"])
            )
        elif method == "Log.entryAdded" and event_parameters["entry"]["level"] in ("error", "warning"):
            self.errors.append(event_parameters["entry"]["text"])
