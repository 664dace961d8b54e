"""One drawing at a time, and a line of bounded length before it.

Drawings are done by one thread. A visitor who has left is in nobody's way: a drawing that waits is not begun, and one that goes
on ends with its next step. How fast a visitor reads what is sent makes no difference to the line either, since of stages
that were not read only the newest of every size is kept.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from scalespace.errors import UserError
from scalespace.serve.drawing import Stage, Watcher

__all__ = ["FullError", "Job", "Line"]

_PAUSE = 0.1
"""Seconds between two stages of one size that are shown."""

Work = Callable[[Watcher], Stage | None]
"""Draws, and returns the finished pictures, or None where the watcher wanted no more."""


class FullError(UserError):
    """The line is as long as it may be."""


class Job:
    """A drawing in the line, as its visitor sees it.

    Args:
        work: Does the drawing.
        pause: Seconds between two stages of one size that are shown.
    """

    def __init__(self, work: Work, pause: float = _PAUSE):
        # An upload is held by it.
        self._work: Work | None = work
        self._pause = pause
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._stages: dict[tuple[tuple[int, int], bool], Stage] = {}
        self._shown: tuple[tuple[int, int], float] | None = None
        self._left = threading.Event()
        self.ahead = 0
        """Number of drawings that come first."""
        self.ended = False
        """Whether nothing more will come."""
        self.error: BaseException | None = None
        """What ended the drawing."""

    def leave(self) -> None:
        """The visitor wants no more."""
        self._left.set()
        self._work = None

    @property
    def left(self) -> bool:
        """Whether the visitor wants no more."""
        return self._left.is_set()

    async def changes(self) -> AsyncIterator[list[Stage]]:
        """Stages that are new, each time that there is something new to be told, be it only the place in the line."""
        while True:
            # What is put down after this is told the next time.
            self._changed.clear()
            ended, stages = self.ended, self._taken()
            yield stages
            if ended:
                return
            await self._changed.wait()

    def watch(self, make: Callable[[], Stage], size: tuple[int, int]) -> bool:
        """As a ``Watcher``: take a stage if it is time for one."""
        now = time.monotonic()
        if self._shown is None or size != self._shown[0] or now - self._shown[1] >= self._pause:
            self.put(make())
            self._shown = (size, now)
        return not self.left

    def put(self, stage: Stage) -> None:
        """Keep a stage for the visitor."""
        with self._lock:
            # The newest comes last, and replaces what was not read, but for a picture that was given.
            key = stage.size, stage.step == 0
            self._stages.pop(key, None)
            self._stages[key] = stage
        self.tell()

    def do(self) -> None:
        """Draw, unless the visitor has left."""
        work = self._work
        try:
            if work is not None and (stage := work(self.watch)) is not None:
                self.put(stage)
        except Exception as error:
            self.error = error

    def tell(self) -> None:
        """Wake whoever waits for a change; from any thread."""
        # The loop is closed when the server has ended.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._changed.set)

    def _taken(self) -> list[Stage]:
        with self._lock:
            stages, self._stages = self._stages, {}
        return list(stages.values())


class Line:
    """Drawings in the order in which they came.

    Args:
        waiting: Largest number of drawings that wait besides the one that goes on.
    """

    def __init__(self, waiting: int):
        self._waiting = waiting
        self._jobs: list[Job] = []
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, "drawing")

    def enter(self, work: Work) -> Job:
        """Put a drawing at the end of the line. To be called in the server's loop.

        Args:
            work: Does the drawing, in the thread of the line.

        Raises:
            FullError: If the line is full.
        """
        job = Job(work)
        with self._lock:
            if len(self._jobs) > self._waiting:
                raise FullError(
                    f"{len(self._jobs)} drawings are under way or waiting, and there is room for no more; try again in a minute"
                )
            job.ahead = len(self._jobs)
            self._jobs.append(job)
        self._pool.submit(self._do, job)
        return job

    def stop(self) -> None:
        """Have all drawings end with their next step. Signals may call it, so that it takes no lock."""
        for job in tuple(self._jobs):
            job.leave()

    def close(self) -> None:
        """Begin no more drawings, and wait until the one that goes on has ended."""
        self.stop()
        self._pool.shutdown(cancel_futures=True)

    def leave(self, job: Job) -> None:
        """The visitor of a job has left, and the place of one that waits is free at once."""
        job.leave()
        with self._lock:
            if job in self._jobs and job.ahead > 0:
                self._remove(job)

    def _do(self, job: Job) -> None:
        job.do()
        with self._lock:
            if job in self._jobs:
                self._remove(job)
        job.ended = True
        job.tell()

    def _remove(self, job: Job) -> None:
        self._jobs.remove(job)
        for ahead, other in enumerate(self._jobs):
            other.ahead = ahead
            other.tell()
