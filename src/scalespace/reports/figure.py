"""What all figures share: a canvas that needs no screen, and a caption that tells where the figure comes from."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from scalespace.errors import UserError, printable
from scalespace.files import Output, check_writable, write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BASELINE", "OURS", "STYLES", "FigureFile", "check_figure", "new_figure", "save_figure"]

OURS, BASELINE = "tab:blue", "0.45"
STYLES = ("-", "--", "-.", ":")

_CAPTION_WIDTH = 13  # characters of a caption to an inch
# What each kind of file calls a title and a description; a date would make the same figure differ from run to run.
_METADATA = {
    ".png": ("Title", "Description", None),
    ".svg": ("Title", "Description", "Date"),
    ".pdf": ("Title", "Subject", "CreationDate"),
}


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure that needs no screen.

    Args:
        width: Width in inches.
        height: Height in inches.

    Raises:
        ImportError: If matplotlib is not installed (extra ``plot``).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def check_figure(path: Path) -> None:
    """Refuse a name that no figure can be written to, before the work that it will show.

    Args:
        path: Picture file to write.

    Raises:
        ImportError: If matplotlib is not installed (extra ``plot``).
        UserError: If the ending of the name is no format of a picture, or the file cannot be written.
    """
    # Without an ending matplotlib would add one of its own, and .pgf needs TeX.
    if path.suffix.lower().removeprefix(".") not in new_figure(1, 1).canvas.get_supported_filetypes().keys() - {"pgf"}:
        raise UserError(f"{path} cannot be drawn; name it .png, .svg or .pdf")
    check_writable(path)


FigureFile = Annotated[str, Output(check_figure)]
"""Type of an option that names a picture file of a figure."""


def save_figure(figure: Figure, path: Path, title: str, caption: str) -> None:
    """Add title and caption to a figure and write it. Both are also in the file's metadata. Equal figures are equal bytes.

    Args:
        figure: Figure that ``new_figure`` has made.
        path: Picture file to write: .png, .svg, .pdf or another ending that matplotlib knows.
        title: Title above the axes.
        caption: Text below the axes that tells where the figure comes from.

    Raises:
        UserError: If the ending of the path is no format of a picture, or the picture cannot be written.
    """
    from matplotlib import rc_context

    check_figure(path)
    title, caption = printable(title), printable(caption)
    # Names of folders and options hold dollars, and are no mathematics.
    figure.suptitle(title, parse_math=False)
    width = int(figure.get_size_inches()[0] * _CAPTION_WIDTH)
    lines = textwrap.fill(caption, width, break_long_words=False, break_on_hyphens=False)
    figure.supxlabel(lines, fontsize="small", color="0.3", parse_math=False)
    metadata = None
    if path.suffix.lower() in _METADATA:
        name, description, date = _METADATA[path.suffix.lower()]
        metadata = {name: title, description: caption} | ({} if date is None else {date: None})
    # Names inside an SVG are drawn from this salt, and at random without it.
    with rc_context({"svg.hashsalt": "scalespace"}):
        write_file(path, lambda file: figure.savefig(file, dpi=150, metadata=metadata))
