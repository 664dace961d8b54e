"""Logs of a run: files of one JSON object a line, each with the step that it tells of.

A run that goes on at an earlier step drops what was logged after it. Anybody may edit a log, and a crash may cut its last line
short, so lines that are no records are passed over.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scalespace.errors import UserError
from scalespace.files import REMEDY, flush, why, write_file
from scalespace.reading import check_readable, parse_json

__all__ = ["Log", "has_losses", "has_metrics"]

# Of steps whose losses are logged together.
_GROUP = re.compile(r"\d{1,9}x\d{1,9}( -> \d{1,9}x\d{1,9})?")
_LONGEST_LINE, _LARGEST = 1 << 20, 1e30  # characters read at once, and no number of a record


class Log:
    """A log.

    Args:
        path: File of the log; it need not exist.
        is_record: Whether a JSON object with a step is a record, as far as others rely on it.
    """

    def __init__(self, path: Path, is_record: Callable[[dict[str, Any]], bool]):
        self.path, self._is_record = path, is_record

    def append(self, record: dict[str, Any]) -> None:
        """Add a line.

        Raises:
            UserError: If it cannot be written.
        """
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path} ({why(error, self.path)}); {REMEDY}") from error

    def read(self) -> list[dict[str, Any]]:
        """All records. What is none is left out, such as a last line that a crash has cut short."""
        return list(self._records())

    def has(self, step: int) -> bool:
        """Whether there is a record of a step."""
        return any(record["step"] == step for record in self._records())

    def rewind(self, step: int) -> None:
        """Drop what was logged after ``step``, since it is about to be done again."""
        if self.path.exists():
            text = "".join(json.dumps(record) + "\n" for record in self._records() if record["step"] <= step)
            write_file(self.path, lambda file: _write_text(file, text), durable=True)

    def flush(self) -> None:
        """Bring it to the disk, if it is there."""
        with contextlib.suppress(OSError):
            flush(self.path)

    def _records(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        check_readable(self.path)
        with self.path.open(encoding="utf-8", errors="replace") as file:
            for line in iter(lambda: file.readline(_LONGEST_LINE), ""):
                with contextlib.suppress(ValueError):
                    record = parse_json(line)
                    if isinstance(record, dict) and _is_number(record.get("step"), int) and self._is_record(record):
                        yield record


def has_losses(record: dict[str, Any]) -> bool:
    """Whether the losses of a record, if it has any, are such by resolution, as training logs them."""
    losses = record.get("losses", {})
    return isinstance(losses, dict) and all(
        _GROUP.fullmatch(name) and _is_number(loss, float) for name, loss in losses.items()
    )


def has_metrics(record: dict[str, Any]) -> bool:
    """Whether a record has figures by their names, as measuring a run gives them."""
    metrics = record.get("metrics")
    return isinstance(metrics, dict) and all(type(value) in (int, float) for value in metrics.values())


def _is_number(value: Any, kind: type) -> bool:
    return type(value) is kind and 0 <= value < _LARGEST


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)
