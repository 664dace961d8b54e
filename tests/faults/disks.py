"""Disks that lose their power or become full: what was saved before is there, whole."""

import ctypes
import hashlib
import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.faults.small_runs import WEIGHTS, Reference, around, config, in_child, newest_whole, run, step_of

import scalespace.files
from scalespace.errors import UserError
from scalespace.runs.checkpoints import Checkpoints

__all__ = ["full_disks", "full_file_systems", "power_cuts"]

_BLOCK = 4096  # bytes
_NOT_PERMITTED = 77  # exit code of a child


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
        for module in ("files", "runs.log"):
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


def full_file_systems(reference: Reference, folder: Path, count: int) -> dict[str, int] | None:
    """Save on real file systems with too little space, ever more of it; None where this process may not mount any."""
    source = reference.folder / "checkpoints"
    names = (*WEIGHTS, "optimizer.bin")
    needed = sum(-(-(source / f"step-{6:08d}" / name).stat().st_size // _BLOCK) for name in names)
    place = folder / "mounted"
    place.mkdir(parents=True)

    def work() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        # A mount of this process and no other: CLONE_NEWNS, with CLONE_NEWUSER for who is not root; MS_REC | MS_PRIVATE.
        if libc.unshare(0x20000 | (0x10000000 if os.geteuid() else 0)) or libc.mount(
            b"none", b"/", None, 0x44000, None
        ):
            os._exit(_NOT_PERMITTED)
        tensors = {name: load_file(source / f"step-{6:08d}" / name) for name in WEIGHTS}
        moments = torch.load(source / f"step-{6:08d}" / "optimizer.bin", weights_only=True)

        def write(target: Path) -> None:
            for name, values in tensors.items():
                save_file(values, target / name)
            torch.save(moments, target / "optimizer.bin")

        for number in range(count):
            if libc.mount(b"tmpfs", str(place).encode(), b"tmpfs", 0, f"size={4 * needed * _BLOCK}".encode()):
                os._exit(_NOT_PERMITTED)
            shutil.copytree(source / f"step-{4:08d}", place / "checkpoints" / f"step-{4:08d}")
            free = os.statvfs(place).f_bavail - needed * number // count
            (place / "filler").write_bytes(bytes(free * _BLOCK))
            with pytest.raises(UserError, match="the last good checkpoint is"):
                Checkpoints(place / "checkpoints", 2, lambda line: None).save(6, write, {})
            found = newest_whole(place)
            assert found is not None
            assert step_of(found) == 4
            reference.check(found)
            assert [path.name for path in (place / "checkpoints").iterdir()] == [f"step-{4:08d}"]
            assert not libc.umount(str(place).encode())

    prints = folder / "prints"
    _, status = os.waitpid(in_child(work, prints), 0)
    code = os.waitstatus_to_exitcode(status)
    if code == _NOT_PERMITTED:
        return None
    assert code == 0, prints.read_text()
    return {"file systems too small": count}
