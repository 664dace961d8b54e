"""The checkpoints of a run, each proven whole by its manifest before anything goes on from it.

A checkpoint is a folder ``step-NNNNNNNN``, whose manifest has its step, the identity of its run, and the sizes and checksums of
its files. It is whole if all of that is true of it. One that is not is never deleted, and never gone on from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scalespace.errors import UserError, cause
from scalespace.files import remove_directory, write_directory
from scalespace.manifest import MANIFEST, read_manifest, write_manifest

__all__ = ["Checkpoint", "Checkpoints"]

_REMEDY = "restore it from a copy"


class Checkpoint(NamedTuple):
    """A checkpoint to go on from."""

    step: int
    path: Path
    proven: bool
    """Whether its manifest proves it whole. Earlier versions of this package wrote none."""


class Checkpoints:
    """The checkpoints in a folder.

    Args:
        folder: Has them, or will have them.
        keep: How many of the newest whole ones to keep.
        say: Takes a line for the user.
        keep_every: Those whose steps are multiples of it are kept besides; 0 keeps no others.
    """

    def __init__(self, folder: Path, keep: int, say: Callable[[str], None], keep_every: int = 0):
        self.folder, self.keep, self.keep_every, self._say = folder, keep, keep_every, say
        self._refused: set[Path] = set()

    def save(self, step: int, write: Callable[[Path], None], run: Mapping[str, Any]) -> None:
        """Write the checkpoint of ``step`` whole or not at all, durably, then delete the oldest whole ones.

        Args:
            step: Number of steps taken.
            write: Writes it into the folder it is given.
            run: The identity of the run; anything that JSON holds.

        Raises:
            UserError: If it cannot be written; what was there before is untouched.
        """
        path = self._path(step)

        def write_proven(folder: Path) -> None:
            write(folder)
            write_manifest(folder, facts={"step": step, "run": run})

        try:
            write_directory(path, write_proven, durable=True)
        except UserError as error:
            latest = self.latest()
            kept = f"the last good checkpoint is {latest[1]}" if latest else "there is no earlier checkpoint"
            raise UserError(f"{cause(error)}; {kept}") from error
        self._refused.discard(path)
        # Those of later steps were refused when the run went on from an earlier one.
        whole = [(number, found) for number, found in self._found() if number <= step and self._looks_whole(found)]
        for number, old in whole[: -self.keep]:
            if self.keep_every and number % self.keep_every == 0:
                continue
            try:
                remove_directory(old)
            except OSError as error:
                self._say(f"cannot delete the old checkpoint {old} ({cause(error)}); it is no longer needed")

    def latest(self) -> tuple[int, Path] | None:
        """Step and folder of the newest checkpoint of which nothing is known that speaks against it."""
        whole = [(step, path) for step, path in self._found() if self._looks_whole(path)]
        return whole[-1] if whole else None

    def newest_whole(
        self, difference: Callable[[Mapping[str, Any]], str | None], progress: bool = False
    ) -> Checkpoint | None:
        """The newest checkpoint that is proven whole; what is left out, and why, is said in a line each.

        If none can be proven, it is the newest that has no manifest, as those of earlier versions.

        Args:
            difference: Given the identity of the run that wrote a checkpoint, tells in what it differs from this run; None
                where it is the same.
            progress: Whether reading that takes over two seconds shows a bar on stderr.

        Returns:
            The checkpoint; None if there is none at all.

        Raises:
            UserError: If there are checkpoints, or what may have been some, and none is whole.
        """
        unproven: list[tuple[int, Path]] = []
        faults: list[str] = []
        for step, path in reversed(self._found()):
            if not (path / MANIFEST).exists():
                unproven.append((step, path))
                continue
            fault = self._fault(step, path, difference, progress)
            if fault is None:
                for _, left_out in unproven:
                    self._refuse(left_out, f"it has no {MANIFEST} that proves it whole")
                return Checkpoint(step, path, proven=True)
            self._refuse(path, fault)
            faults.append(fault)
        if unproven:
            step, path = unproven[0]
            self._say(
                f"{path} cannot be proven whole: it has no {MANIFEST}, as those of earlier versions of scalespace"
            )
            return Checkpoint(step, path, proven=False)
        others = sorted(entry.name for entry in self.folder.glob("[!.]*")) if self.folder.is_dir() else []
        if faults:
            raise UserError(
                f"no checkpoint in {self.folder} is whole (of the newest, {faults[0]}); restore one from a copy, or give a "
                "new --output-dir to begin anew"
            )
        if others:
            raise UserError(
                f"{self.folder} has no checkpoint but {others[0]}; give it back its name if it was one (step-00001000), or "
                "give a new --output-dir to begin anew"
            )
        return None

    def _fault(
        self, step: int, path: Path, difference: Callable[[Mapping[str, Any]], str | None], progress: bool
    ) -> str | None:
        try:
            manifest = read_manifest(path, _REMEDY)
            if manifest is None:
                return f"{MANIFEST} is missing"
            written, run = manifest.facts.get("step"), manifest.facts.get("run")
            if written != step:
                return f"it was written at step {written}, and its name is of another"
            if not isinstance(run, dict):
                return f"{MANIFEST} does not tell its run"
            if (other := difference(run)) is not None:
                return f"it belongs to another run ({other})"
            return manifest.change(path, progress=progress)
        except UserError as error:
            return str(error)

    def _looks_whole(self, path: Path) -> bool:
        """Whether nothing that can be seen without reading its files speaks against a checkpoint."""
        if path in self._refused:
            return False
        try:
            manifest = read_manifest(path, _REMEDY)
            return manifest is None or all(manifest.change_of_size(path, name) is None for name in manifest.files)
        except UserError:
            return False

    def _refuse(self, path: Path, fault: str) -> None:
        self._refused.add(path)
        self._say(f"skipped {path}: {fault}")

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _found(self) -> list[tuple[int, Path]]:
        """Steps and folders, oldest first; copies that a user keeps beside them under other names are left alone."""
        names = (re.fullmatch(r"step-(\d{8,})", path.name) for path in self.folder.glob("step-*") if path.is_dir())
        steps = sorted({int(name[1]) for name in names if name})
        return [(step, self._path(step)) for step in steps if self._path(step).is_dir()]
