"""Take the pictures of docs/how-to/page.md: the page before, during and after a drawing by the model in the package.

    python -m tests.serve.screenshots FOLDER

writes page-start.png, page-half.png, page-done.png, page-enlarged.png and page-varied.png. It needs chromium or google-chrome
on the PATH.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.browser import BROWSER, Browser, browsing
from tests.serve.served import served

from scalespace import load_shipped, to_picture
from scalespace.pipelines.shipped import load_heldout, shipped_guidance

__all__ = ["main"]

_STEPS, _PICTURES, _SEED = 30, 4, 1
_HALF = 10  # network calls
_PATIENCE = 900  # seconds that a drawing may take
_FIRST_LEVEL = "document.querySelector('#levels img').src"
_DONE = "part('status').textContent.startsWith('Done in ')"
_STRENGTH = 0.4
_HELDOUT = 0  # number of the emoji that is enlarged


def main(folder: Path) -> None:
    """Take them all."""
    pipeline, guidance = load_shipped(), shipped_guidance()
    with tempfile.TemporaryDirectory() as place, served(pipeline, None, guidance, steps=250, pictures=16) as page:
        upload = Path(place) / "emoji.png"
        to_picture(load_heldout()[_HELDOUT]).save(upload)
        with browsing(Path(place) / "browser") as browser:
            browser.open(page.address)
            browser.value(f"part('steps').value = {_STEPS}; part('pictures-asked').value = {_PICTURES}")
            browser.value(f"part('seed').value = {_SEED}")
            _save(browser, folder / "page-start.png")
            page.gate.let(_HALF)
            browser.value("part('draw').click()")
            while page.gate.calls < _HALF:
                time.sleep(0.1)
            browser.wait("part('status').textContent.startsWith('Step ')")
            _save(browser, folder / "page-half.png")
            first = browser.value(_FIRST_LEVEL)
            page.gate.let()
            browser.wait(_DONE, _PATIENCE)
            _save(browser, folder / "page-done.png")
            assert browser.value(_FIRST_LEVEL) == first
            browser.choose("#file", upload)
            browser.wait("part('status').textContent.startsWith('Enlarging')")
            browser.wait(_DONE, _PATIENCE)
            _save(browser, folder / "page-enlarged.png")
            for field, value, event in (("task", "vary", "change"), ("strength", _STRENGTH, "input")):
                browser.value(f"part('{field}').value = '{value}'; part('{field}').dispatchEvent(new Event('{event}'))")
            browser.value("part('again').click()")
            browser.wait("part('status').textContent.startsWith('Varying')")
            browser.wait(_DONE, _PATIENCE)
            _save(browser, folder / "page-varied.png")
            complaints = browser.complaints()
    assert not complaints, complaints


def _save(browser: Browser, file: Path) -> None:
    browser.wait("[...document.images].every((image) => image.complete)")
    file.write_bytes(browser.picture(width=860, height=760))


if __name__ == "__main__":
    if len(sys.argv) != 2 or not BROWSER:
        sys.exit("usage: python -m tests.serve.screenshots FOLDER, with chromium or google-chrome on the PATH")
    main(Path(sys.argv[1]))
