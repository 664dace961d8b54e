"""Tables of results. A table is Markdown for people and JSON for programs, and both tell where it comes from."""

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
"""A cell of a table. None is an empty cell."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        key: Name of the column in JSON.
        heading: Heading in Markdown, with the unit.
        format: Format of the numbers in Markdown, as Python's ``format`` takes it.
    """

    key: str
    heading: str
    format: str = ""

    def text(self, cell: Cell) -> str:
        """The text of a cell in Markdown."""
        if cell is None:
            return ""
        return cell if isinstance(cell, str) else format(cell, self.format)


@dataclass(frozen=True)
class Table:
    """A table of results.

    Args:
        name: Name of its files, without an ending.
        title: Heading that says what the table shows.
        columns: Columns from left to right.
        rows: Rows from top to bottom, each with one cell for every column.
        notes: Sentences that a reader needs besides the numbers.
        provenance: Command, commit and seed that the numbers come from.
        figure: Function that draws the table into a picture file. None if the table has no figure.

    Raises:
        ValueError: If the number of cells in a row differs from the number of columns.
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
        """A dictionary for JSON. Every row is a dictionary from the columns' keys to unrounded values."""
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
        """The table as JSON text."""
        return json.dumps(self.as_dict(), indent=2)

    def as_markdown(self) -> str:
        """The table as Markdown, with title, notes and provenance."""
        notes = "".join(f"- {note}\n" for note in self.notes)
        parts = (f"# {self.title}\n", markdown(self.columns, self.rows) + "\n", notes, f"`{self.provenance.caption()}`")
        return "\n".join(part for part in parts if part)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write the files NAME.md and NAME.json.

        Args:
            folder: Folder to write to. It is made if it does not exist, and older files of these names are replaced.

        Returns:
            Paths of both files.

        Raises:
            UserError: If a file cannot be written.
        """
        paths = folder / f"{self.name}.md", folder / f"{self.name}.json"
        for path, text in zip(paths, (self.as_markdown(), self.as_json()), strict=True):
            write_text(path, text)
        return paths

    def draw(self, folder: Path) -> tuple[Path, ...]:
        """Draw the files NAME.png and NAME.svg, if the table has a figure.

        Args:
            folder: Folder to write to. It is made if it does not exist, and older files of these names are replaced.

        Returns:
            Paths of both files, or nothing if the table has no figure.

        Raises:
            ImportError: If matplotlib is not installed (extra ``plot``).
            UserError: If a file cannot be written.
        """
        if self.figure is None:
            return ()
        paths = folder / f"{self.name}.png", folder / f"{self.name}.svg"
        for path in paths:
            self.figure(self, path)
        return paths


def write_text(path: Path, text: str) -> None:
    """Write a text file with a final line break, completely or not at all. An older file is replaced.

    Raises:
        UserError: If the file cannot be written.
    """

    def write(file: Path) -> None:
        # Names of files may hold bytes that are no text.
        file.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")

    write_file(path, write)


def markdown(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> str:
    """A Markdown table that is also aligned as plain text. Columns of numbers are aligned to the right."""
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
