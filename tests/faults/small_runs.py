"""Runs that are small enough to be disturbed many times, and what an undisturbed one of them is."""

import contextlib
import hashlib
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.small_models import small_config

from scalespace.runs.checkpoints import Checkpoints
from scalespace.training.configuration import TrainConfig
from scalespace.training.loop import train

__all__ = [
    "EVERY",
    "MODEL",
    "STEPS",
    "WEIGHTS",
    "Reference",
    "around",
    "config",
    "in_child",
    "lean",
    "named",
    "newest_whole",
    "run",
    "step_of",
]

STEPS, EVERY = 8, 2
WEIGHTS = ("model.safetensors", "ema.safetensors")
MODEL = "model/unet/diffusion_pytorch_model.safetensors"


def config(folder: Path, **changes: Any) -> TrainConfig:
    """A run of eight steps, dropout and change of resolution included, on 16 pictures of 8 x 8 pixels."""
    options: dict[str, Any] = {"max_steps": STEPS, "checkpoint_every": EVERY, "log_every": 3, "change_share": 0.3}
    return small_config(folder, **options | changes)


@contextlib.contextmanager
def lean() -> Iterator[None]:
    """Without counting beforehand what a run costs, which takes longer than these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scalespace.training.loop.check_footprint", lambda *_: None)
        for name in ("path_gflops", "path_activations"):
            patch.setattr(f"scalespace.training.build.{name}", lambda *_: 1.0)
        yield


def run(settings: TrainConfig, say: Callable[[str], None] = lambda line: None) -> None:
    with lean():
        train(settings, progress=False, say=say)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def named(folder: Path) -> list[Path]:
    """Everything that has the name of a checkpoint."""
    return sorted(folder.glob("checkpoints/step-*"))


class Reference:
    """The undisturbed run: the contents of the weights at every checkpoint, and of the model.

    Args:
        folder: Place for it.
        trained: Whether it is there already.
    """

    def __init__(self, folder: Path, trained: bool = False):
        self.folder = folder
        if not trained:
            run(config(folder, keep_checkpoints=99))
        self.weights = {step_of(path): self._read(path) for path in named(folder)}
        self.model = (folder / MODEL).read_bytes()
        assert STEPS in self.weights

    def check(self, checkpoint: Path) -> None:
        """The checkpoint has the weights that the undisturbed run had at its step."""
        assert self._read(checkpoint) == self.weights[step_of(checkpoint)], f"{checkpoint} has other weights"

    def check_end(self, folder: Path) -> None:
        """The run has ended as the undisturbed one, bit for bit."""
        self.check(folder / "checkpoints" / f"step-{STEPS:08d}")
        assert (folder / MODEL).read_bytes() == self.model, f"{folder} has another model"

    def cut(self, folder: Path, step: int) -> None:
        """Copy the run as it was after ``step`` steps."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("model"))
        for path in named(folder):
            if step_of(path) > step:
                shutil.rmtree(path)

    @staticmethod
    def _read(checkpoint: Path) -> list[str]:
        return [hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in WEIGHTS]


def newest_whole(folder: Path, said: list[str] | None = None) -> Path | None:
    lines: list[str] = [] if said is None else said
    found = Checkpoints(folder / "checkpoints", 9, lines.append).newest_whole(lambda run: None)
    return None if found is None else found.path


_OPERATIONS = (
    "scalespace.files.flush",
    "scalespace.files._rename",
    "scalespace.files.make_directory",
    "scalespace.runs.checkpoints.write_manifest",
    "scalespace.training.trainer.save_file",
    "accelerate.checkpointing.save",
    "shutil.rmtree",
)
"""What a save is made of, by the names under which it is called."""


@contextlib.contextmanager
def around(do: Callable[[int, str, str], None]) -> Iterator[None]:
    """Call ``do`` before and after every operation on the disk, with its number, from 0, "before" or "after", and its name."""
    count = 0

    def wrapped(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **options: Any) -> Any:
            nonlocal count
            number, count = count, count + 1
            do(number, "before", name)
            result = operation(*words, **options)
            do(number, "after", name)
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in _OPERATIONS:
            module, _, attribute = name.rpartition(".")
            __import__(module)
            patch.setattr(name, wrapped(name, getattr(sys.modules[module], attribute)))
        yield


def in_child(work: Callable[[], None], prints: Path) -> int:
    """Do something in a process of its own, which is forked; its number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # The threads that read pictures ahead are gone by now.
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.dup2(os.open(prints, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        torch.set_num_threads(1)
        work()
        code = 0
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.stderr.flush()
    finally:
        os._exit(code)
