"""SIGKILL at random moments: a run goes on from its newest checkpoint and ends as if nothing had happened."""

import os
import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.small_runs import EVERY, STEPS, Reference, around, config, in_child, named, newest_whole, run, step_of
from tests.process_groups import run_group
from tests.small_models import train_words

__all__ = ["group_kills", "kills"]


def kills(reference: Reference, folder: Path, count: int, seed: int = 0) -> dict[str, int]:
    """SIGKILL at random moments, half of them before or after a random operation on the disk, until runs have ended."""
    chance, done, in_saves, ended = random.Random(seed), 0, 0, 0
    began = time.monotonic()
    _, code = os.waitpid(in_child(lambda: run(config(folder / "timed")), folder / "prints"), 0)
    assert code == 0, (folder / "prints").read_text()
    seconds, operations = time.monotonic() - began, _count_operations(folder / "counted")
    while done < count:
        place = folder / f"killed{ended}"
        while True:
            before, said = named(place)[-1:], folder / "said"
            said.write_text("")
            at = (chance.randrange(operations), chance.choice(("before", "after"))) if chance.random() < 0.5 else None

            def work(place: Path = place, said: Path = said, at: tuple[int, str] | None = at) -> None:
                def die(*where: Any) -> None:
                    if where[:2] == at:
                        os.kill(os.getpid(), signal.SIGKILL)

                with said.open("a", buffering=1) as lines, around(die):
                    run(config(place), partial(print, file=lines))

            child = in_child(work, folder / "prints")
            if at is None:
                time.sleep(chance.uniform(0, seconds))
                os.kill(child, signal.SIGKILL)
            _, code = os.waitpid(child, 0)
            lines = said.read_text().splitlines()
            assert not any(line.startswith("skipped") for line in lines), lines
            resumed = [line for line in lines if line.startswith("resuming ")]
            if resumed:
                # The newest that was there is the one that it went on from, always.
                assert resumed == [f"resuming {place} at step {step_of(before[0])}"]
            if code == 0:
                reference.check_end(place)
                ended += 1
                break
            assert code == signal.SIGKILL, (folder / "prints").read_text()
            done += 1
            in_saves += bool(list(place.glob("checkpoints/.*")) + list(place.glob(".model.*")))
            for path in named(place):
                reference.check(path)
            assert newest_whole(place) == (named(place)[-1] if named(place) else None)
        shutil.rmtree(place)
    return {"kills": done, "during a save": in_saves, "runs ended": ended}


def _count_operations(folder: Path) -> int:
    numbers: list[int] = []
    with around(lambda number, *_: numbers.append(number)):
        run(config(folder))
    return max(numbers) + 1


_TIMER = """
import os, signal, threading
import scalespace.training.build, scalespace.training.loop
scalespace.training.loop.check_footprint = lambda *_: None
scalespace.training.build.path_gflops = scalespace.training.build.path_activations = lambda *_: 1.0
if rank == {rank}:
    timer = threading.Timer({seconds}, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()
"""


def group_kills(folder: Path, count: int, seed: int = 0) -> dict[str, int]:
    """SIGKILL one of two processes that train together at random moments, until runs have ended."""
    chance, done, ended = random.Random(seed), 0, 0
    options = ("--max-steps", str(STEPS), "--checkpoint-every", str(EVERY), "--change-share", "0.3")
    began = time.monotonic()
    for process in run_group(
        2,
        train_words(folder / "whole", *options, "--keep-checkpoints", "9"),
        folder / "prints",
        _TIMER.format(rank=9, seconds=0),
    ):
        assert process.code == 0, process.errors
    seconds, reference = time.monotonic() - began, Reference(folder / "whole", trained=True)
    while done < count:
        place = folder / f"killed{ended}"
        while True:
            before = named(place)[-1:]
            harm = _TIMER.format(rank=chance.randrange(2), seconds=chance.uniform(0, seconds))
            group = run_group(2, train_words(place, *options, "--keep-checkpoints", "9"), folder / "prints", harm)
            assert "skipped" not in group[0].out
            assert "resuming" not in group[0].out or f"at step {step_of(before[0])}" in group[0].out
            for path in named(place):
                reference.check(path)
            assert newest_whole(place) == (named(place)[-1] if named(place) else None)
            if [process.code for process in group] == [0, 0]:
                reference.check_end(place)
                ended += 1
                break
            done += 1
        shutil.rmtree(place)
    return {"kills": done, "runs ended": ended}
