"""Any words after any command end in an answer or in one sentence: no traceback, no hang, and nothing else is touched.

Case number n is the same wherever the options are, and `pytest tests/commands/test_fuzz.py -k "sentence and [n]"` repeats it.
With the variable SCALESPACE_FUZZ=5000 there are so many cases.
"""

import io
import os
import random
import resource
import shutil
import signal
import sys
import types
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from tests.small_models import SMALL_OPTIONS, small_pipeline, train_words

from scalespace.cli import _COMMANDS, main
from scalespace.commands import module_of, parsing
from scalespace.data import images
from scalespace.metrics import evaluate
from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.paper import experiments, gflops, reproduce
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.released import export_released_state
from scalespace.planning import timing
from scalespace.serve.server import PageServer
from scalespace.tasks.chain import PipelineDenoiser
from scalespace.training.configuration import PRESETS
from scalespace.training.trainer import Trainer

CASES = int(os.environ.get("SCALESPACE_FUZZ", "60"))
PATIENCE, WORK = 120, 20  # seconds that pass, and that the processor works, until a case is taken for one that hangs
MEMORY = 3 << 30  # bytes that a case may take

INTEGERS = (
    "0",
    "1",
    "2",
    "3",
    "8",
    "-1",
    "1000000",
    "99999999999",
    "9" * 400,
    "9" * 5000,
    "-" + "9" * 30,
    "1e3",
    "٣",
    "nan",
)
FLOATS = (
    "0",
    "-0.0",
    "0.5",
    "1",
    "-1",
    "1e-320",
    "1e38",
    "1e308",
    "-1e308",
    "1e400",
    "nan",
    "inf",
    "-inf",
    "9" * 400,
    "x",
)
WORDS = (
    "",
    "x",
    "None",
    "x" * 5000,
    "-",
    "a,b",
    "fid,,kid",
    ",",
    "$x$ \\frac",
    "na\udcffme",
    "\x1b[2J\n",
    "~nobodyhere/x",
    "é猫",
)
USUAL = {
    int: ("1", "2", "3", "4", "8"),
    float: ("0.1", "0.5", "1"),
    "data": ("pictures", "synthetic:shapes:5", "pictures.zip"),
    "output": ("new", "new/below"),
    "output-dir": ("new", "run"),
    "held-out": ("new.zip",),
    "plot": ("new.png",),
    "save-statistics": ("new.npz",),
    "model": ("model", "run/model"),
    "trained": ("run",),
    "source": ("ssd_64res_celeba_2levels.pt", "model"),
    "generated": ("model", "run", "pictures", "synthetic:shapes:5"),
    "picture": ("pictures/0.png",),
    "mask": ("pictures/1.png",),
    "first": ("pictures/2.png",),
    "second": ("pictures/3.png",),
    "reference": ("pictures", "pictures.zip", "synthetic:shapes:5"),
}
"""Words for values of a type, or of an option, with which a command can go on."""


class Hang(BaseException):
    """A case took longer than anybody waits."""


class Started(BaseException):
    """The work was begun: whatever came before it is over."""


@dataclass(frozen=True)
class Option:
    """An option of a command, as the parser makes it of a field."""

    name: str
    kind: Any
    positional: bool
    required: bool
    written: bool


def _options(kind: type, prefix: str = "") -> Iterator[Option]:
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint = hints[field.name]
        if is_dataclass(hint):
            yield from _options(hint, f"{prefix}{field.name.replace('_', '-')}.")
            continue
        # tyro marks what has no name on the command line.
        positional = "Positional" in repr(hint)
        required = field.default is field.default_factory
        name = prefix + field.name.replace("_", "-")
        yield Option(name, _bare(hint), positional, required, any(parsing._marks(hint)))


def _bare(hint: Any) -> Any:
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return hint


OPTIONS = {command: tuple(_options(import_module(module_of(command)).Arguments)) for command in sorted(_COMMANDS)}


class Words:
    """Draws the words of a command."""

    def __init__(self, case: int, inputs: list[str]):
        self.random = random.Random(case)
        self.inputs = inputs

    def command(self) -> tuple[list[str], list[str]]:
        """Words, and the places that they ask to write to."""
        command = self.random.choice(tuple(OPTIONS))
        words, written = [command], ["runs"] if command == "reproduce" else []
        # Networks of their usual size take seconds to be looked at.
        small = SMALL_OPTIONS if any(option.name == "process.levels" for option in OPTIONS[command]) else []
        required = [option for option in OPTIONS[command] if option.required]
        others = [option for option in OPTIONS[command] if not option.required and option.name != "quiet"]
        chosen = self.random.sample(others, min(len(others), self.random.choice((0, 1, 1, 2, 4, 8))))
        if self.random.random() < 0.5 and "data" in (names := {option.name: option for option in others}):
            chosen.append(names["data"])
        for option in (*required, *chosen):
            if option.required and self.random.random() < 0.03:
                continue
            values = self._values(option, option.kind)
            if option.written:
                written += values
            words += self._spelled(option, values)
        # The model of these tests has fewer timesteps than the steps that are usual.
        usual = {"quiet": ["--quiet"], "steps": ["--steps=5"], "sample-steps": ["--sample-steps=5"]}
        first = [word for option in OPTIONS[command] for word in usual.get(option.name, ())]
        return [*words[:1], *first, *small, *words[1:]], written

    def _spelled(self, option: Option, values: list[str]) -> list[str]:
        if option.positional:
            return values
        if option.kind is bool:
            return [f"--{self.random.choice(('', 'no-'))}{option.name}"]
        if len(values) == 1 and self.random.random() < 0.5:
            return [f"--{option.name}={values[0]}"]
        return [f"--{option.name}", *values]

    def _values(self, option: Option, kind: Any) -> list[str]:
        pick, chance = self.random.choice, self.random.random()
        # What is wrong with one value hides what the others would do, so that most are right.
        if chance < 0.05:
            return [pick(pick((INTEGERS, FLOATS, WORDS, self.inputs)))]
        if self.random.random() < 0.6 and (kind in USUAL or option.name in USUAL):
            return [pick(USUAL[kind if kind in USUAL else option.name])]
        origin, inner = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            return self._values(option, _bare(pick(inner))) if chance < 0.9 else ["None"]
        if kind is types.NoneType:
            return ["None"]
        if origin is Literal:
            return [pick(inner)]
        if origin is tuple:
            count = pick((0, 1, 2, 3)) if inner[-1] is Ellipsis or chance > 0.9 else len(inner)
            return [word for _ in range(count) for word in self._values(option, inner[0])]
        if kind is int:
            return [pick(INTEGERS)]
        if kind is float:
            return [pick(FLOATS)]
        if option.name == "preset":
            return [pick((*PRESETS, "x"))]
        if option.name == "table":
            return [pick(("main", "information", "gflops", "steps", "x"))]
        if option.name == "metrics":
            return [pick((*evaluate.METRICS, "fid,kid", *WORDS))]
        if option.name == "device":
            return [pick(("cpu", "cpu", "auto", "cuda:7", "meta", *WORDS))]
        if option.written:
            return [
                pick(
                    (
                        "new",
                        "new.zip",
                        "new.png",
                        "new.npz",
                        "text.txt/below",
                        "pipe",
                        "/dev/zero",
                        *self.inputs,
                        *WORDS,
                    )
                )
            ]
        return [pick((*self.inputs, *self.inputs, *WORDS))]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    """Whatever a path may lead to."""
    folder = tmp_path_factory.mktemp("zoo")
    noise = np.random.default_rng(0)
    for name, count in (("pictures", 6), ("na\udcffme $x$\x1b[2J", 3)):
        (folder / name).mkdir()
        for number in range(count):
            Image.fromarray(noise.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(folder / name / f"{number}.png")
    (folder / "empty").mkdir()
    (folder / "text.txt").write_text("mine")
    (folder / "nothing.png").touch()
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "text.npz").write_text("no zip")
    np.savez(folder / "arrays.npz", about=np.array("[1, 2]"), mean=np.zeros(3))
    (folder / "text.safetensors").write_bytes(b"\xff" * 64)
    os.mkfifo(folder / "pipe")
    (folder / "odd").mkdir()
    (folder / "odd" / "a.png").symlink_to("/dev/zero")
    (folder / "odd" / "b.png").symlink_to("nowhere")
    (folder / "odd" / "round").symlink_to(".")
    os.mkfifo(folder / "odd" / "c.png")
    (folder / "loop").symlink_to("loop")
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        for number in range(4):
            archive.write(folder / "pictures" / f"{number}.png", f"{number % 2}/\x1b{number}.png")
    (folder / "cut.zip").write_bytes((folder / "pictures.zip").read_bytes()[:-30])
    small_pipeline().save_pretrained(folder / "model")
    released = FlexiUNet(((64, 64), (32, 32)), base_channels=4, blocks_per_level=1, released_quirks=True)
    torch.save({"model": export_released_state(released), "step": 3}, folder / "ssd_64res_celeba_2levels.pt")
    for name, file in (("model-a", "unet/config.json"), ("model-b", "scheduler/scheduler_config.json")):
        shutil.copytree(folder / "model", folder / name)
        (folder / name / file).write_text("[" * 100_000)
    main(train_words(folder / "run"))
    return folder


def _inputs(zoo: Path) -> list[str]:
    # Models are named more often than by chance, since most of two commands is about them.
    found = sorted(path.name for path in zoo.iterdir())
    return [
        *found,
        *["model"] * 5,
        *["pictures"] * 3,
        "synthetic:shapes:5",
        "synthetic:shapes:0",
        "synthetic:x",
        "/dev/zero",
        ".",
    ]


def _contents(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            state = os.lstat(os.path.join(place, name))  # noqa: PTH118
            found[os.path.relpath(os.path.join(place, name), folder)] = (state.st_size, state.st_mtime_ns)  # noqa: PTH118
    return found


def _start(*arguments: Any, **options: Any) -> Any:
    raise Started


@pytest.fixture
def bounds(monkeypatch) -> Iterator[None]:
    """No work is begun, and neither time nor memory goes beyond all bounds."""
    for owner, name in (
        *(
            (Trainer, "steps"),
            (ScaleSpacePipeline, "__call__"),
            (PipelineDenoiser, "__call__"),
            (evaluate, "extract"),
            (experiments, "extract"),
        ),
        *((images.ImageDataset, "batch"), (timing, "_median_seconds"), (timing, "_peak_bytes")),
        *((gflops, "average_gflops"), (reproduce, "average_gflops"), (PageServer, "run")),
    ):
        monkeypatch.setattr(owner, name, _start)

    def stop(*_: Any) -> None:
        raise Hang

    monkeypatch.setenv("SCALESPACE_TRACEBACK", "1")
    signals, limits = (signal.SIGALRM, signal.SIGPROF), resource.getrlimit(resource.RLIMIT_AS)
    before = [signal.signal(number, stop) for number in signals]
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    signal.setitimer(signal.ITIMER_PROF, WORK)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MEMORY, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.setitimer(signal.ITIMER_PROF, 0)
    for number, handler in zip(signals, before, strict=True):
        signal.signal(number, handler)


def _run(words: list[str], encoding: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int | None, str]:
    """Exit code, or None where the work was begun, and what stderr has."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
    streams["stderr"].reconfigure(errors="backslashreplace")  # as Python has it always
    code: Any = 0
    with monkeypatch.context() as patch:
        for name, stream in streams.items():
            patch.setattr(sys, name, stream)
        try:
            main(words)
        except SystemExit as stop:
            code = stop.code
        except Started:
            code = None
        streams["stderr"].flush()
    return code, streams["stderr"].buffer.getvalue().decode()  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("case", range(CASES))
def test_any_words_end_in_an_answer_or_in_one_sentence(case: int, zoo: Path, bounds, tmp_path, monkeypatch):
    place = tmp_path / "here"
    shutil.copytree(zoo, place, symlinks=True, copy_function=_copied)
    monkeypatch.chdir(place)
    words, written = Words(case, _inputs(zoo)).command()
    if case % 4:
        # Of options by chance some have no effect, which would hide what the others do.
        monkeypatch.setattr(parsing, "check_effects", lambda *_: None)
    before = _contents(place)
    code, errors = _run(words, ("utf-8", "ascii")[case % 2], monkeypatch)
    after = _contents(place)
    told = errors.splitlines()
    assert code in (0, 2, None), words
    if code == 2:
        assert told, words
        assert told[-1].startswith("scalespace: error: "), words
        assert "memory ran out" not in told[-1], words
        assert all(letter.isprintable() for letter in told[-1]), words
        # What is told of the data or the model may come before it.
        assert sum(line.startswith("scalespace: error: ") for line in told) == 1, words
    assert "Traceback" not in errors, words
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    asked = [os.path.normpath(name) for name in written if name]
    assert not [name for name in changed if not any(name == ask or name.startswith(f"{ask}/") for ask in asked)], words
    assert code is None or not changed & before.keys() or code == 0, words


def _copied(source: str, target: str) -> None:
    # A pipe cannot be copied, and waits for a writer who never comes.
    if os.path.isfile(source):  # noqa: PTH113
        shutil.copy2(source, target)
    else:
        os.mkfifo(target)
