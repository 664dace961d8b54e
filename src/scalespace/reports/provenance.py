"""Where a figure or a table comes from: command, commit or version, and seed."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import scalespace

__all__ = ["Provenance", "provenance", "typed"]

_SHORT = 7  # characters of a commit that people are shown
_PATIENCE = 10.0  # seconds for git


@dataclass(frozen=True)
class Provenance:
    """What is needed to make a result again.

    Args:
        command: The command as it was typed.
        version: Version of the package.
        commit: Full hash of the commit, if the package runs from a git checkout. None otherwise.
        changed: Whether the package in the checkout differs from that commit.
        seed: Seed of everything that was drawn. None if nothing is random.
    """

    command: str
    version: str
    commit: str | None
    changed: bool
    seed: int | None

    def as_dict(self) -> dict[str, Any]:
        """A dictionary for JSON."""
        return asdict(self)

    def caption(self) -> str:
        """One line with command, commit, version and seed."""
        code = f"version {self.version}"
        if self.commit is not None:
            code = f"commit {self.commit[:_SHORT]}{' with changes' if self.changed else ''}, {code}"
        return f"{self.command} ({code}, {'nothing is random' if self.seed is None else f'seed {self.seed}'})"


def provenance(command: str, seed: int | None = None) -> Provenance:
    """The provenance of a result that this package makes now.

    Args:
        command: The command as it was typed.
        seed: Seed of everything that is drawn. None if nothing is random.
    """
    commit, changed = _commit(Path(scalespace.__file__).parent)
    return Provenance(command, scalespace.__version__, commit, changed, seed)


def typed(program: str, words: Iterable[str], folders: bool = True) -> str:
    """A command as it is typed.

    Args:
        program: What comes before its words, for example "scalespace sample".
        words: Its words.
        folders: Whether files keep their folders, which are those of one machine.
    """
    return f"{program} {shlex.join(word if folders else Path(word).name or word for word in words)}"


def _commit(folder: Path) -> tuple[str | None, bool]:
    def git(*words: str) -> str:
        run = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=_PATIENCE
        )
        return run.stdout.strip()

    try:
        # An environment inside somebody's repository is no checkout of this package.
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", "."))
    except (OSError, subprocess.SubprocessError):
        return None, False
