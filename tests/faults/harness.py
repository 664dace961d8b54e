"""Faults of every kind done to small runs: what survives must be whole, and the end must be that of an undisturbed run.

Each function does one kind of fault many times and returns what it counted; a promise that is broken raises AssertionError.
"""

import contextlib
import ctypes
import hashlib
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.process_groups import run_group
from tests.small_models import small_config, train_words

import scalespace.files
from scalespace.errors import UserError
from scalespace.pipelines.saving import load_pipeline
from scalespace.runs.checkpoints import Checkpoints
from scalespace.training.configuration import TrainConfig
from scalespace.training.loop import train

__all__ = ["Reference", "corruptions", "full_disks", "full_file_systems", "group_kills", "kills", "power_cuts"]

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


def _flip(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def _truncate(file: Path, chance: random.Random) -> None:
    file.write_bytes(file.read_bytes()[: chance.randrange(file.stat().st_size)])


def _zero(file: Path, chance: random.Random) -> None:
    content = file.read_bytes()
    kept = chance.randrange(len(content))
    file.write_bytes(content[:kept] + bytes(len(content) - kept))


def _delete(file: Path, chance: random.Random) -> None:
    file.unlink()


def _rename(file: Path, chance: random.Random) -> None:
    file.rename(file.with_name(f"{file.name}.old"))


def _swap(file: Path, chance: random.Random) -> None:
    others = [path / file.name for path in file.parent.parent.glob("step-*") if path != file.parent]
    if others:
        shutil.copy(chance.choice(others), file)
    else:
        _zero(file, chance)


def _rename_folder(file: Path, chance: random.Random) -> None:
    file.parent.rename(file.parent.with_name("step-00000099"))


_HARMS = (_flip, _flip, _truncate, _zero, _swap, _delete, _rename, _rename_folder)


def corruptions(reference: Reference, folder: Path, count: int, seed: int = 0) -> dict[str, int]:
    """Damage a random file of a run in a random way: it goes on from the newest whole checkpoint, or stops in a sentence."""
    chance, counts = random.Random(seed), {"corruptions": 0, "resumed": 0, "refused": 0, "model refused": 0}
    for number in range(count):
        place = folder / f"harmed{number}"
        reference.cut(place, 6)
        shutil.copytree(reference.folder / "model", place / "model")
        checkpoints, harm = named(place), chance.choice(_HARMS)
        in_checkpoint = chance.random() < 0.8 or harm in (_swap, _rename_folder)
        if in_checkpoint:
            # The newest most often.
            target = checkpoints[-1] if chance.random() < 0.75 else chance.choice(checkpoints)
            files = sorted(target.iterdir())
        else:
            target = None
            files = [
                place / "run.json",
                place / "log.jsonl",
                *(f for f in sorted(place.rglob("model/**/*")) if f.is_file()),
            ]
        file = chance.choice(files)
        before = file.read_bytes()
        harm(file, chance)
        counts["corruptions"] += 1
        changed = not file.exists() or file.read_bytes() != before
        expected = checkpoints[-2] if changed and target == checkpoints[-1] else checkpoints[-1]
        kept = {path.name for path in named(place)}
        # The model is looked at first, since the run writes it again.
        try:
            network = load_pipeline(place / "model").unet.state_dict()
            whole = load_file(reference.folder / MODEL)
            assert all(torch.equal(network[name], whole[name]) for name in whole), f"{harm} of {file}: other weights"
        except UserError:
            assert changed
            counts["model refused"] += 1
        said: list[str] = []
        try:
            run(config(place, keep_checkpoints=9), said.append)
        except UserError:
            # Nothing but the identity of the run makes it stop while there is a whole checkpoint.
            assert file.name == "run.json", f"{harm} of {file}"
            counts["refused"] += 1
        else:
            assert f"resuming {place} at step {step_of(expected)}" in said, (str(harm), str(file), said)
            skipped = expected != checkpoints[-1] or harm is _rename_folder
            assert sum(line.startswith("skipped") for line in said) == skipped
            reference.check_end(place)
            counts["resumed"] += 1
        assert kept <= {path.name for path in named(place)}
        shutil.rmtree(place)
    return counts


class _Node:
    """What the disk is sure to have of a file or a folder: what it had when it was last flushed."""

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.names: dict[str, _Node] = {}


class _Disk:
    """Keeps what a disk would have after a power cut, by what was flushed of it.

    Args:
        root: The folder; it and all above it are on the disk.
    """

    def __init__(self, root: Path):
        self.root, self.known = root, {root.stat().st_ino: _Node()}
        self.saved = 0
        self.states: dict[str, tuple[int, dict[str, bytes]]] = {}

    def look(self) -> None:
        """Learn of new files, and forget those that are gone, whose numbers may be used again."""
        seen = {path.stat().st_ino for path in (self.root, *self.root.rglob("*"))}
        self.known = {number: self.known.get(number) or _Node() for number in seen}

    def flush(self, path: Path) -> None:
        self.look()
        node = self.known.get(path.stat().st_ino)
        if node is None:
            return
        if path.is_dir():
            node.names = {entry.name: self.known[entry.stat().st_ino] for entry in path.iterdir()}
        else:
            node.content = path.read_bytes()

    def cut(self) -> None:
        """Keep what may be there if the power goes now: three ways in which what was not flushed may be lost."""
        self.look()
        flushed = dict(self._flushed(self.known[self.root.stat().st_ino], ""))
        # Names may also be on the disk before they are flushed, and before the contents are.
        files = {path: self.known[path.stat().st_ino] for path in self.root.rglob("*") if path.is_file()}
        empty = {str(path.relative_to(self.root)): node.content or b"" for path, node in files.items()}
        zeros = {
            str(path.relative_to(self.root)): bytes(path.stat().st_size) if node.content is None else node.content
            for path, node in files.items()
        }
        for state in (flushed, empty, zeros):
            digest = hashlib.sha256()
            for name in sorted(state):
                digest.update(f"{name} {hashlib.sha256(state[name]).hexdigest()}\n".encode())
            # The same state later must hold what was promised by then.
            self.states[digest.hexdigest()] = (self.saved, state)

    def _flushed(self, node: _Node, prefix: str) -> Iterator[tuple[str, bytes]]:
        for name, inner in node.names.items():
            if inner.content is not None or not inner.names:
                yield f"{prefix}{name}", inner.content or b""
            yield from self._flushed(inner, f"{prefix}{name}/")


def power_cuts(reference: Reference, folder: Path, resumed: int, seed: int = 0) -> dict[str, int]:
    """Cut the power at every operation on the disk: what was saved before is there, whole, and some runs go on from it."""
    place = folder / "powered"
    place.mkdir(parents=True)
    disk = _Disk(place)
    flush, save = scalespace.files.flush, Checkpoints.save

    def flushed(path: Path) -> None:
        disk.cut()
        flush(path)
        disk.flush(path)

    def saving(self: Checkpoints, step: int, *words: Any) -> None:
        save(self, step, *words)
        disk.saved = step
        disk.cut()

    with pytest.MonkeyPatch.context() as patch:
        for module in ("files", "training.run_directory"):
            patch.setattr(f"scalespace.{module}.flush", flushed)
        patch.setattr(Checkpoints, "save", saving)
        for name in ("scalespace.files._rename", "shutil.rmtree"):
            module, _, attribute = name.rpartition(".")
            operation = getattr(sys.modules[module], attribute)

            def wrapped(*words: Any, operation: Any = operation, **options: Any) -> Any:
                disk.cut()
                result = operation(*words, **options)
                disk.cut()
                return result

            patch.setattr(name, wrapped)
        run(config(place / "run"))
    chance, after = random.Random(seed), folder / "after"
    states = list(disk.states.values())
    to_resume = set(chance.sample(range(len(states)), min(resumed, len(states))))
    for number, (saved, state) in enumerate(states):
        for name, content in state.items():
            file = after / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        found = newest_whole(after / "run")
        assert (0 if found is None else step_of(found)) >= saved, (saved, found, sorted(state))
        if found is not None:
            reference.check(found)
        if number in to_resume and "run/run.json" in state and state["run/run.json"]:
            run(config(after / "run"))
            reference.check_end(after / "run")
        shutil.rmtree(after, ignore_errors=True)
    return {"states of the disk": len(states), "resumed": len(to_resume)}


def full_disks(reference: Reference, folder: Path, resumed: int, seed: int = 0) -> dict[str, int]:
    """Let the disk be full at every operation of a save, and from then on: the checkpoint before it stays the newest whole."""
    chance, number, refused = random.Random(seed), 0, 0
    while True:
        place, failed = folder / f"full{number}", False
        reference.cut(place, 4)

        def fail(operation: int, when: str, name: str, first: int = number) -> None:
            nonlocal failed
            # To delete takes no space.
            if when == "before" and operation >= first and name != "shutil.rmtree":
                failed = True
                raise OSError(28, "No space left on device")

        def write(target: Path) -> None:
            for name in ("model.safetensors", "ema.safetensors", "optimizer.bin", "progress.json"):
                shutil.copyfile(reference.folder / "checkpoints" / f"step-{6:08d}" / name, target / name)

        told = ""
        try:
            with around(fail):
                Checkpoints(place / "checkpoints", 2, lambda line: None).save(6, write, {})
        except UserError as error:
            told = str(error)
            refused += 1
        assert not told or "(the disk is full); free space or choose another place; the last good checkpoint" in told
        found = newest_whole(place)
        assert found is not None
        assert step_of(found) in (4, 6)
        reference.check(found)
        if chance.random() < resumed / 20:
            shutil.rmtree(place / "checkpoints" / f"step-{6:08d}", ignore_errors=True)
            run(config(place))
            reference.check_end(place)
        shutil.rmtree(place)
        if not failed:
            return {"operations that failed": number, "refused in a sentence": refused}
        number += 1


def full_file_systems(reference: Reference, folder: Path, sizes: int) -> dict[str, int] | None:
    """Save on real file systems of a few sizes, each too small; None where this process may not mount any."""
    source = reference.folder / "checkpoints"
    blocks = sum(-(-file.stat().st_size // 4096) for file in (source / f"step-{6:08d}").iterdir())
    place = folder / "mounted"
    place.mkdir(parents=True)

    def work() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        user = 0 if os.geteuid() == 0 else 0x10000000  # CLONE_NEWUSER
        if libc.unshare(0x20000 | user) or libc.mount(b"none", b"/", None, 0x4C000, None):
            os._exit(77)
        for number in range(sizes):
            free = 4096 * (blocks * number // sizes)
            whole = 4096 * (blocks + 24) + free
            if libc.mount(b"tmpfs", str(place).encode(), b"tmpfs", 0, f"size={whole}".encode()):
                os._exit(77)
            shutil.copytree(source / f"step-{4:08d}", place / "checkpoints" / f"step-{4:08d}")
            tensors = {name: load_file(source / f"step-{6:08d}" / name) for name in WEIGHTS}
            moments = torch.load(source / f"step-{6:08d}" / "optimizer.bin", weights_only=True)

            def write(target: Path, tensors: Any = tensors, moments: Any = moments) -> None:
                from safetensors.torch import save_file

                for name, values in tensors.items():
                    save_file(values, target / name)
                torch.save(moments, target / "optimizer.bin")

            with pytest.raises(UserError, match="the last good checkpoint is"):
                Checkpoints(place / "checkpoints", 2, lambda line: None).save(6, write, {})
            found = newest_whole(place)
            assert found is not None
            assert step_of(found) == 4
            reference.check(found)
            assert [path.name for path in (place / "checkpoints").iterdir()] == [f"step-{4:08d}"]
            assert not libc.umount(str(place).encode())

    prints = folder / "mount-prints"
    _, status = os.waitpid(in_child(work, prints), 0)
    code = os.waitstatus_to_exitcode(status)
    if code == 77:
        return None
    assert code == 0, prints.read_text()
    return {"file systems too small": sizes}
