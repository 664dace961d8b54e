"""Take a picture of the page of a run: its index.html with a grid drawn by every checkpoint that the run kept.

    python -m tests.reports.screenshot RUN PICTURE.png

The run is only read. The page is the run's own but for its grids, so that a run trained without ``--sample-every`` has some. It
needs chromium or google-chrome on the PATH.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path

import torch
from tests.browser import BROWSER, browsing

from scalespace.pipelines.pictures import picture_grid
from scalespace.training.models import open_model

__all__ = ["main"]

_PICTURES, _COLUMNS, _STEPS, _SEED = 20, 10, 20, 0
_WIDTH, _HEIGHT = 1200, 1080
_RUN = re.compile(r"^(const run = )(.*);$", re.MULTILINE)


def main(run: Path, picture: Path) -> None:
    """Draw the grids, and take it."""
    with tempfile.TemporaryDirectory() as place:
        page, grids = Path(place) / "index.html", []
        for checkpoint in sorted((run / "checkpoints").glob("step-*")):
            file = f"{checkpoint.name}.png"
            _draw(checkpoint, Path(place) / file)
            grids.append({"step": int(checkpoint.name.removeprefix("step-")), "file": file})
        page.write_text(with_grids((run / "index.html").read_text(encoding="utf-8"), grids), encoding="utf-8")
        with browsing(Path(place) / "browser") as browser:
            browser.call("Emulation.setScrollbarsHidden", hidden=True)
            browser.open(page.as_uri())
            browser.wait("[...document.images].every((image) => image.complete)")
            picture.write_bytes(browser.picture(_WIDTH, _HEIGHT))
            complaints = browser.complaints()
    assert not complaints, complaints


def with_grids(text: str, grids: list[dict[str, int | str]]) -> str:
    """A page with other grids; nothing else in it changes."""
    found = _RUN.search(text)
    assert found is not None, "this is no page of a run"
    data = json.dumps(json.loads(found[2]) | {"grids": grids}).replace("<", "\\u003c")
    return f"{text[: found.start()]}{found[1]}{data};{text[found.end() :]}"


def _draw(checkpoint: Path, file: Path) -> None:
    pipeline = open_model(checkpoint, say=lambda line: None, progress=False)
    pipeline.set_progress_bar_config(disable=True)
    classes = pipeline.unet.num_classes
    labels = None if classes is None else [number % classes for number in range(_PICTURES)]
    drawn = pipeline(
        batch_size=_PICTURES,
        class_labels=labels,
        num_inference_steps=_STEPS,
        generator=torch.Generator().manual_seed(_SEED),
    )
    picture_grid(drawn.images, columns=_COLUMNS).save(file)


if __name__ == "__main__":
    if len(sys.argv) != 3 or not BROWSER:
        sys.exit(
            "usage: python -m tests.reports.screenshot RUN PICTURE.png, with chromium or google-chrome on the PATH"
        )
    main(Path(sys.argv[1]), Path(sys.argv[2]))
