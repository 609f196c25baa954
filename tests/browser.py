"""A headless Chromium spoken to over its DevTools pipe: pages opened, looked into, and pictured; nothing to install."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    *("--headless", "--remote-debugging-pipe", "--hide-scrollbars", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-extensions", "--disable-quic", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
_SECONDS = 60.0


def find_chromium() -> str | None:
    """The browser's command, if there is one on this machine."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """An open page: what it asked for, what went wrong in it, and what it holds."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session
        self.requests: list[str] = []
        self.errors: list[str] = []

    def call(self, method: str, **parameters: Any) -> Any:
        return self.browser.call(method, parameters, self.session)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def open(self, file: Path) -> None:
        self.browser.loaded.discard(self.session)
        self.call("Page.navigate", url=file.resolve().as_uri())
        while self.session not in self.browser.loaded:
            self.browser.read()

    def look(
        self, *, width: int = 1160, height: int = 900, scale: float = 1, dark: bool = False, media: str = "screen"
    ) -> None:
        """Set the window and what the reader prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def picture(self, top: float = 0, height: float | None = None) -> bytes:
        """A PNG file of the page's full width, from `top` downward."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": top, "width": size["width"], "height": height or size["height"] - top, "scale": 1}
        return base64.b64decode(self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"])

    def pdf(self) -> bytes:
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"])


class Browser:
    """One process; messages are JSON that ends in a zero byte, on the file descriptors 3 and 4 of the browser."""

    def __init__(self, command: str, folder: Path) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        flags = [*_FLAGS, f"--user-data-dir={folder}", *(["--no-sandbox"] if os.getuid() == 0 else [])]
        self._process = subprocess.Popen(
            [command, *flags, "about:blank"],
            close_fds=False,  # Python's own are closed by exec
            preexec_fn=lambda: _as_3_and_4(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._numbers, self._rest = itertools.count(1), b""
        self._answers: dict[int, Any] = {}
        self._pages: dict[str, Page] = {}
        self.loaded: set[str] = set()

    def close(self) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self.call("Browser.close", {})
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def page(self) -> Page:
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        return page

    def call(self, method: str, parameters: dict[str, Any], session: str | None = None) -> Any:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while number not in self._answers:
            self.read()
        answer = self._answers.pop(number)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def read(self) -> None:
        """Wait for more messages, and file them."""
        end = time.monotonic() + _SECONDS
        while not select.select([self._in], [], [], 1)[0]:
            assert time.monotonic() < end, "the browser does not answer"
        data = os.read(self._in, 1 << 20)
        assert data, "the browser went away"
        *messages, self._rest = (self._rest + data).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self._file(message["method"], message["params"], message.get("sessionId", ""))

    def _file(self, event: str, told: dict[str, Any], session: str) -> None:
        page = self._pages.get(session)
        if page is None:
            return
        if event == "Page.loadEventFired":
            self.loaded.add(session)
        elif event == "Network.requestWillBeSent":
            page.requests.append(told["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            page.errors.append(str(told["exceptionDetails"]))
        elif event == "Log.entryAdded":
            page.errors.append(told["entry"]["text"])
        elif event == "Runtime.consoleAPICalled":
            page.errors.append(str(told["args"]))


def _as_3_and_4(source: int, sink: int) -> None:
    high = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 10) for number in (source, sink)]
    for number, copy in enumerate(high, start=3):
        os.dup2(copy, number)


@contextlib.contextmanager
def browser(command: str) -> Iterator[Browser]:
    """A browser with a profile of its own that is gone afterwards."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        opened = Browser(command, Path(folder))
        try:
            yield opened
        finally:
            opened.close()
