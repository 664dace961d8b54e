"""Requests to stop a run: signals, and a limit of time. They are noted at once and met after the step that is being taken."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any, Self

__all__ = ["Stopping"]

# The last ones are what a terminal sends when it is closed, and what batch systems send before they take a machine away.
_SIGNALS = ("SIGINT", "SIGHUP", "SIGTERM", "SIGUSR1")
_ECHO = 1.0  # seconds; launchers pass on the Ctrl-C that the terminal has sent to every process already
_NOTED = b"\n%s: stopping after this step, with a checkpoint; Ctrl-C once more stops at once\n"


class Stopping:
    """Notes requests to stop, inside the block.

    Signals are noted in the main thread only, which alone may handle them, and unless they were ignored when the process began,
    as under nohup. A second SIGINT raises KeyboardInterrupt at once; within a second of the first it counts as the same.

    Args:
        hours: Time after which to stop, from now on; None sets no limit.
        aloud: Whether a signal is answered on stderr at once.
    """

    def __init__(self, hours: float | None = None, aloud: bool = True):
        self._hours, self._aloud = hours, aloud
        self._began = time.monotonic()
        self._signal: str | None = None
        self._interrupted: float | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def reason(self) -> str | None:
        """What asks to stop, in a word or two; None where nothing does."""
        if self._signal is None and self._hours is not None and time.monotonic() - self._began >= 3600 * self._hours:
            return f"--max-hours {self._hours:g}"
        return self._signal

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in _SIGNALS:
                number = getattr(signal, name, None)
                # A handler that Python did not install, None, could not be put back.
                if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            now = time.monotonic()
            if self._interrupted is not None and now - self._interrupted > _ECHO:
                raise KeyboardInterrupt
            self._interrupted = self._interrupted or now
        if self._signal is None:
            self._signal = signal.Signals(number).name
            if self._aloud:
                # print may be interrupted by this very handler.
                os.write(2, _NOTED % self._signal.encode())
