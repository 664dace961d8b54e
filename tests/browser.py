"""A real browser without a window, for pages that a test opens, fills in and looks at.

It is driven through a pair of pipes by the DevTools protocol (https://chromedevtools.github.io/devtools-protocol), in which
every message is JSON with a zero byte after it. That needs no driver and no package besides the browser.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

__all__ = ["BROWSER", "OPTIONS", "Browser", "browsing", "needs_browser"]

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or ""
"""The program; empty where there is none."""

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)

needs_browser = pytest.mark.skipif(not BROWSER, reason="needs chromium or google-chrome on the PATH")

_PATIENCE = 60  # seconds


class Browser:
    """One tab.

    Args:
        commands: File that the browser reads from.
        answers: File that the browser writes to.
    """

    def __init__(self, commands: int, answers: int):
        self._commands, self._answers = commands, answers
        self._rest, self._count = b"", 0
        self._session: str | None = None
        self.told: list[dict[str, Any]] = []
        """Everything that the browser has told unasked."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What a command of the protocol gives."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != self._count:
            self.told.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, address: str) -> None:
        """Open a page, and wait until it is there."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, expression: str) -> Any:
        """The value of an expression of JavaScript on the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str, seconds: float = _PATIENCE) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.value(condition):
            assert time.monotonic() < end, (
                f"{condition} has not come true; the page has:\n{self.value('document.body.innerText')}"
            )
            time.sleep(0.02)

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file in a file input."""
        document = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=document, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def picture(self, width: int = 1000, height: int = 760) -> bytes:
        """The page as PNG, of that size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def complaints(self) -> list[str]:
        """Errors of scripts, and what the browser has refused or could not load."""
        self.value("1")
        return [
            json.dumps(one["params"])
            for one in self.told
            if one.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed")
        ]

    def asked_for(self) -> list[str]:
        """The address of everything that was asked for."""
        self.value("1")
        sent = [
            one["params"]["request"]["url"] for one in self.told if one.get("method") == "Network.requestWillBeSent"
        ]
        return [address for address in sent if not address.startswith("data:")]

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], _PATIENCE)
            part = os.read(self._answers, 1 << 16) if ready else b""
            assert part, "the browser has ended or does not answer"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """A browser that forgets everything afterwards.

    Args:
        folder: New folder for what it keeps meanwhile.
    """
    ours, theirs = os.pipe(), os.pipe()  # to the browser, and from it
    # It reads from number 3 and writes to number 4. The first copies are out of the way of these two.
    moves = [(os.POSIX_SPAWN_DUP2, ours[0], 200), (os.POSIX_SPAWN_DUP2, theirs[1], 201)]
    moves += [(os.POSIX_SPAWN_DUP2, 200, 3), (os.POSIX_SPAWN_DUP2, 201, 4)]
    moves += [
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
    ]
    words = [BROWSER, *OPTIONS, "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"]
    process = os.posix_spawn(BROWSER, words, os.environ, file_actions=moves, setpgroup=0)
    for number in (ours[0], theirs[1]):
        os.close(number)
    try:
        yield Browser(ours[1], theirs[0])
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        for number in (ours[1], theirs[0]):
            os.close(number)
