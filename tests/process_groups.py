"""Groups of real processes that share a command, as torchrun would start them, over gloo.

They are forked from a server that has imported everything and computed nothing, so that a group starts at once.
"""

import atexit
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

__all__ = ["Ended", "run_group"]

_PATIENCE = 180  # seconds, many times what a group takes, after which it counts as a deadlock
_PRELOADED = [
    "scalespace.commands.train",
    "scalespace.commands.sample",
    "scalespace.training.loop",
    "tests.small_models",
]


class Ended(NamedTuple):
    """How a process ended."""

    code: int | None
    out: str
    errors: str


def run_group(count: int, words: Sequence[str], folder: Path, harm: str = "", **environment: str) -> list[Ended]:
    """Run a command in processes that share it; a group that does not end is killed and fails the test.

    Args:
        count: Number of processes; one is started without any launcher's environment.
        words: The words after ``scalespace``.
        folder: Place for what they print.
        harm: Python that every process runs first, with its own ``rank``.
        environment: More variables.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    if count > 1:
        environment |= {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    folder.mkdir(exist_ok=True)
    group = []
    for rank in range(count):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}
        prints = (str(folder / f"{rank}.out"), str(folder / f"{rank}.err"))
        group.append(context.Process(target=_process, args=(rank, list(words), environment | own, harm, prints)))
        group[-1].start()
    end = time.monotonic() + _PATIENCE
    for process in group:
        process.join(max(0.0, end - time.monotonic()))
    stuck = [rank for rank, process in enumerate(group) if process.is_alive()]
    for process in group:
        process.kill()
    read = [tuple((folder / f"{rank}.{kind}").read_text() for kind in ("out", "err")) for rank in range(count)]
    if stuck:
        pytest.fail(f"processes {stuck} of {count} did not end: {read}")
    return [Ended(process.exitcode, *texts) for process, texts in zip(group, read, strict=True)]


def _process(rank: int, words: list[str], environment: dict[str, str], harm: str, prints: tuple[str, str]) -> None:
    for number, path in enumerate(prints, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(environment)
    import torch

    from scalespace.cli import main

    torch.set_num_threads(1)
    exec(harm, {"rank": rank})
    try:
        main(words)
    finally:
        # Forked processes end without what they have registered, and how this one leaves is under test.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
