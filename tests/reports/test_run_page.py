import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from tests.browser import browsing, needs_browser
from tests.reports.screenshot import with_grids

from scalespace.reports.run_page import RunPage, write_page

_HOSTILE = "</script><b>&"


def _page(**changes) -> RunPage:
    log = [
        {
            "step": 10 * k,
            "loss": 1 / k,
            "losses": {"8x8": 0.01 / k, "16x16": 1 / k} | ({"8x8 -> 16x16": 0.5 / k} if k % 2 else {}),
            "gradient_norm": None if k == 3 else 1.5,
            "pictures_per_second": 20.0,
        }
        for k in range(1, 6)
    ]
    page = RunPage(
        title=f"emoji {_HOSTILE}",
        state="running",
        step=50,
        max_steps=1000,
        seconds_left=7260.0,
        log=log,
        grids=((20, "samples/step-00000020.png"), (40, "samples/step 40%.png")),
        tables={
            "Configuration": {"batch_size": 64, "process.change_points": [292, 524], "name": _HOSTILE, "flip": True}
        },
    )
    return replace(page, **changes)


def _data(path: Path) -> dict:
    found = re.search(r"^const run = (.*);$", path.read_text(), re.MULTILINE)
    assert found is not None
    return json.loads(found[1])


def test_the_page_needs_nothing_from_elsewhere(tmp_path):
    write_page(_page(), tmp_path / "index.html")
    text = (tmp_path / "index.html").read_text()
    addresses = set(re.findall(r"https?://[^\"' ]*|src=\"[^\"]*|href=\"[^\"]*", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name and no place
    assert _HOSTILE not in text
    assert text.count("</script>") == 1
    assert not re.search(r"%[a-z]+%", text)


def test_curves_are_the_log_by_path(tmp_path):
    write_page(_page(), tmp_path / "index.html")
    data = _data(tmp_path / "index.html")
    inside, changes, norm, pace = data["charts"].values()
    assert list(inside) == ["16x16", "8x8"]
    assert inside["8x8"] == [[10 * k, pytest.approx(0.01 / k)] for k in range(1, 6)]
    assert changes == {"8x8 -> 16x16": [[10, 0.5], [30, pytest.approx(0.5 / 3)], [50, 0.1]]}
    assert [step for step, _ in norm[""]] == [10, 20, 40, 50]
    assert {value for _, value in pace[""]} == {20.0}


def test_a_long_log_is_averaged_over_windows(tmp_path):
    log = [{"step": k, "losses": {"8x8": float(k)}, "gradient_norm": float("nan")} for k in range(1, 100_001)]
    write_page(_page(log=log), tmp_path / "index.html")
    inside, _, norm, _ = _data(tmp_path / "index.html")["charts"].values()
    assert len(inside["8x8"]) == 400
    assert inside["8x8"][0] == [125.5, 125.5]
    assert norm == {"": []}


@needs_browser
def test_a_browser_shows_the_run(tmp_path):
    (tmp_path / "samples").mkdir()
    for name in ("step-00000020.png", "step 40%.png"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / "samples" / name)
    write_page(_page(), tmp_path / "index.html")
    with browsing(tmp_path / "browser") as browser:
        browser.open((tmp_path / "index.html").as_uri())
        body = browser.value("document.body.outerHTML")
        assert browser.complaints() == []
        assert browser.value("document.images[0].naturalWidth") == 8
    assert "running · step 50 of 1,000 · about 2.0 hours left" in body
    assert "at step 40" in body
    assert body.count('<section class="panel"') == 5
    assert body.count("<polyline") == 5
    assert "step 50: 16x16 0.2, 8x8 0.002" in body
    assert "<th>batch_size</th><td>64</td>" in body
    assert "<b>" not in body


def test_a_page_with_other_grids_is_otherwise_the_same(tmp_path):
    write_page(_page(), tmp_path / "index.html")
    before = (tmp_path / "index.html").read_text()
    grids = [{"step": 7, "file": "</script>.png"}]
    (tmp_path / "index.html").write_text(after := with_grids(before, grids))
    assert _data(tmp_path / "index.html")["grids"] == grids
    assert "</script>.png" not in after
    assert with_grids(after, json.loads(json.dumps([{"step": s, "file": f} for s, f in _page().grids]))) == before
