"""Tables of results: one object that people read as Markdown and programs as JSON, with where it comes from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalespace.files import write_file
from scalespace.reports.provenance import Provenance

__all__ = ["Cell", "Column", "Table", "markdown", "write_text"]

Cell = str | int | float | None
"""None is an empty cell."""


@dataclass(frozen=True)
class Column:
    """A column.

    Args:
        key: Its name in JSON.
        heading: Its name for people, with the unit.
        format: How its numbers are written, as of ``format(number, ...)``.
    """

    key: str
    heading: str
    format: str = ""

    def text(self, cell: Cell) -> str:
        """A cell for people."""
        if cell is None:
            return ""
        return cell if isinstance(cell, str) else format(cell, self.format)


@dataclass(frozen=True)
class Table:
    """A table of results.

    Args:
        name: Of its files.
        title: What it shows.
        columns: From left to right.
        rows: From top to bottom, each with a cell for every column.
        notes: Sentences that a reader needs beside the numbers.
        provenance: Where the numbers come from.
        figure: Draws the table into a picture file, where it is also a figure.

    Raises:
        ValueError: If a row has not as many cells as there are columns.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
    provenance: Provenance
    figure: Callable[[Table, Path], None] | None = None

    def __post_init__(self):
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {number} of table {self.name} has {len(row)} cells for {len(self.columns)} columns"
                )

    def as_dict(self) -> dict[str, Any]:
        """For JSON: a row is a dictionary from the columns' keys to unrounded values."""
        keys = [column.key for column in self.columns]
        return {
            "name": self.name,
            "title": self.title,
            "columns": {column.key: column.heading for column in self.columns},
            "rows": [dict(zip(keys, row, strict=True)) for row in self.rows],
            "notes": list(self.notes),
            "provenance": self.provenance.as_dict(),
        }

    def as_json(self) -> str:
        """The table for programs."""
        return json.dumps(self.as_dict(), indent=2)

    def as_markdown(self) -> str:
        """The table for people, readable as it is."""
        notes = "".join(f"- {note}\n" for note in self.notes)
        parts = (f"# {self.title}\n", markdown(self.columns, self.rows) + "\n", notes, f"`{self.provenance.caption()}`")
        return "\n".join(part for part in parts if part)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write NAME.md and NAME.json.

        Args:
            folder: Made if absent; older files of these names are replaced.

        Returns:
            Both paths.

        Raises:
            UserError: If they cannot be written.
        """
        paths = folder / f"{self.name}.md", folder / f"{self.name}.json"
        for path, text in zip(paths, (self.as_markdown(), self.as_json()), strict=True):
            write_text(path, text)
        return paths

    def draw(self, folder: Path) -> tuple[Path, ...]:
        """Draw NAME.png and NAME.svg, if the table is also a figure.

        Args:
            folder: Made if absent; older files of these names are replaced.

        Returns:
            Their paths; none if it is no figure.

        Raises:
            ImportError: If matplotlib is not installed (extra ``plot``).
            UserError: If they cannot be written.
        """
        if self.figure is None:
            return ()
        paths = folder / f"{self.name}.png", folder / f"{self.name}.svg"
        for path in paths:
            self.figure(self, path)
        return paths


def write_text(path: Path, text: str) -> None:
    """Write a text and a line's end, whole or not at all, in the place of an older one.

    Raises:
        UserError: If it cannot be written.
    """

    def write(file: Path) -> None:
        file.write_text(f"{text}\n", encoding="utf-8")

    write_file(path, write)


def markdown(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> str:
    """Columns and rows as a Markdown table whose columns are aligned also as plain text; numbers are to the right."""
    right = [not any(isinstance(row[place], str) for row in rows) for place in range(len(columns))]
    lines = [[column.heading for column in columns]]
    lines += [[column.text(cell) for column, cell in zip(columns, row, strict=True)] for row in rows]
    widths = [max(3, *(len(line[place]) for line in lines)) for place in range(len(columns))]
    lines = [
        [
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ]
        for line in lines
    ]
    rule = ["-" * (width - 1) + (":" if to_right else "-") for width, to_right in zip(widths, right, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))
