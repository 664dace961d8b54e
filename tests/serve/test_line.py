"""One drawing at a time, in the order in which they came, in a line that does not grow without bounds."""

import asyncio
import json
import threading
import weakref
from collections.abc import Callable
from typing import Any, cast

import pytest

from scalespace.serve.application import _lines
from scalespace.serve.drawing import Stage, Watcher
from scalespace.serve.line import FullError, Job, Line, Work


def _stage(step: int, size: int = 4, last: bool = False) -> Stage:
    return Stage(step, 9, (size, size), (b"",), last)


def _in_a_loop(body: Callable[[Line], object], waiting: int = 1) -> None:
    async def run() -> None:
        line = Line(waiting)
        try:
            await asyncio.wait_for(body(line), 60)  # pyright: ignore[reportArgumentType]
        finally:
            await asyncio.to_thread(line.close)

    asyncio.run(run())


async def _told(job: Job) -> list[Stage]:
    return [stage async for stages in job.changes() for stage in stages]


class Held:
    """Work that waits until it is let go."""

    def __init__(self, log: list[str], name: str):
        self.begun, self.go = threading.Event(), threading.Event()
        self._log, self._name = log, name

    def __call__(self, watch: Watcher) -> Stage:
        self._log.append(self._name)
        self.begun.set()
        assert self.go.wait(60)
        return _stage(9, last=True)


def test_drawings_come_one_by_one_and_a_full_line_is_one_sentence():
    async def body(line: Line) -> None:
        log: list[str] = []
        works = [Held(log, name) for name in "abc"]
        jobs = [line.enter(work) for work in works[:2]]
        await asyncio.to_thread(works[0].begun.wait, 60)
        assert [job.ahead for job in jobs] == [0, 1]
        with pytest.raises(FullError, match="2 drawings are under way or waiting, and there is room for no more"):
            line.enter(works[2])
        assert log == ["a"]
        works[0].go.set()
        assert await _told(jobs[0]) == [_stage(9, last=True)]
        assert jobs[1].ahead == 0
        # There is room again.
        jobs.append(line.enter(works[2]))
        assert jobs[2].ahead == 1
        for work, job in zip(works[1:], jobs[1:], strict=True):
            work.go.set()
            await _told(job)
        assert log == ["a", "b", "c"]

    _in_a_loop(body)


def test_who_leaves_the_line_makes_room_at_once_and_is_not_drawn_for():
    async def body(line: Line) -> None:
        log: list[str] = []
        works = [Held(log, name) for name in "abc"]
        first, second = (line.enter(work) for work in works[:2])
        line.leave(second)
        third = line.enter(works[2])
        assert third.ahead == 1
        for work in works:
            work.go.set()
        await _told(first)
        await _told(third)
        assert log == ["a", "c"]

    _in_a_loop(body)


def test_what_was_sent_is_not_kept_for_who_has_left():
    async def body(line: Line) -> None:
        held = Held([], "a")
        first = line.enter(held)
        upload = Held([], "b")
        kept = weakref.ref(upload)
        line.leave(line.enter(upload))
        del upload
        assert kept() is None
        held.go.set()
        await _told(first)

    _in_a_loop(body)


def test_a_drawing_whose_visitor_has_left_ends_with_its_next_step():
    async def body(line: Line) -> None:
        begun, ended = threading.Event(), threading.Event()

        def work(watch: Watcher) -> None:
            while watch(lambda: _stage(1), (4, 4)):
                begun.set()
            ended.set()

        job = line.enter(work)
        await asyncio.to_thread(begun.wait, 60)
        line.leave(job)
        assert await asyncio.to_thread(ended.wait, 60)

    _in_a_loop(body)


def test_an_error_ends_its_own_drawing_alone():
    async def body(line: Line) -> None:
        def fail(watch: Watcher) -> None:
            raise ValueError("too few steps")

        failed, after = line.enter(fail), line.enter(lambda watch: _stage(9))
        await _told(failed)
        assert str(failed.error) == "too few steps"
        assert await _told(after) == [_stage(9)]
        assert after.error is None

    _in_a_loop(body)


def _job(pause: float, work: Work = lambda watch: None) -> Job:
    return Job(work, pause)


def test_stages_that_come_too_quickly_are_not_made_but_the_first_of_every_size_is():
    async def body(line: Line) -> None:
        job, made = _job(3600), []

        def make(step: int) -> Stage:
            made.append(step)
            return _stage(step, 4 if step < 4 else 8)

        for step in range(1, 8):
            job.watch(lambda step=step: make(step), (4, 4) if step < 4 else (8, 8))
        assert made == [1, 4]

    _in_a_loop(body)


def test_who_reads_slowly_gets_the_newest_stage_of_every_size_in_order():
    async def body(line: Line) -> None:
        job = _job(0)
        for step in range(1, 8):
            job.watch(lambda step=step: _stage(step, 4 if step < 4 else 8), (4, 4) if step < 4 else (8, 8))
        job.ended = True
        assert await _told(job) == [_stage(3, 4), _stage(7, 8)]

    _in_a_loop(body)


def test_no_stage_is_lost_between_two_threads():
    # The last stage must come, whenever the reader takes what is there.
    async def body(line: Line) -> None:
        for _ in range(50):

            def work(watch: Watcher) -> Stage:
                for step in range(1, 40):
                    watch(lambda step=step: _stage(step, step), (step, step))
                return _stage(99, 99, last=True)

            job = line.enter(work)
            stages = await _told(job)
            assert [stage.step for stage in stages] == [*range(1, 40), 99]

    _in_a_loop(body)


def test_a_picture_that_was_given_is_told_besides_the_newest_of_its_size():
    async def body(line: Line) -> None:
        def work(watch: Watcher) -> Stage:
            assert watch(lambda: _stage(0), (4, 4))
            job.put(_stage(1))
            return _stage(9, last=True)

        job = Job(work)
        await asyncio.to_thread(job.do)
        job.ended = True
        assert await _told(job) == [_stage(0), _stage(9, last=True)]

    _in_a_loop(body)


def test_the_end_is_told_once_and_last_though_it_comes_while_something_is_told():
    async def body(line: Line) -> None:
        job, nothing = Job(lambda watch: None), cast(Any, None)
        job.put(_stage(1))
        lines = _lines(line, job, nothing, nothing)
        told = [json.loads(await anext(lines)) for _ in range(2)]
        job.put(_stage(9, last=True))
        job.ended = True
        told += [json.loads(one) async for one in lines]
        assert [one["state"] for one in told] == ["waiting", "drawing", "drawing", "done"]

    _in_a_loop(body)
