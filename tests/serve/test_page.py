"""The page's server as a browser and as anything else meets it."""

import base64
import contextlib
import io
import json
import os
import re
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from tests.browser import Browser, browsing, needs_browser
from tests.picture_files import encoded, picture
from tests.serve.served import CLASSES, WISH, Served, classes_pipeline, guidance_of, served
from tests.small_models import small_pipeline

from scalespace import ScaleSpacePipeline
from scalespace.serve import application
from scalespace.serve.drawing import draw
from scalespace.serve.offer import Limits, Offer


@pytest.fixture(scope="module")
def pipeline() -> ScaleSpacePipeline:
    return classes_pipeline()


@pytest.fixture(scope="module")
def page(pipeline) -> Iterator[Served]:
    with served(pipeline, "small <b>") as found:
        yield found


def _enlarge(
    page: Served, data: bytes, wish: Any = None, path: str = "enlarge", **headers: str
) -> tuple[int, list[dict[str, Any]]]:
    asked = quote(json.dumps(WISH | {"size": "4x4"} if wish is None else wish))
    kind = {"content_type": "application/octet-stream"} | headers
    status, _, content = page.ask("POST", f"/{path}?wish={asked}", data, **kind)
    return status, [json.loads(line) for line in content.decode().splitlines()]


# Without a browser


def test_the_page_holds_its_data_and_asks_for_nothing_from_elsewhere(page: Served):
    status, headers, content = page.ask("GET", "/")
    text = content.decode()
    assert status == 200
    assert not re.search(r"https?://|src=|href=|@import|url\(", text)
    assert not re.search(r"%[a-z]+%", text)
    assert "<title>small &lt;b&gt;</title>" in text
    assert text.count("</script>") == 1
    found = re.search(r"^const offer = (.*);$", text, re.MULTILINE)
    assert found is not None
    assert json.loads(found[1])["classes"] == list(CLASSES)
    policy = headers["content-security-policy"]
    nonce = re.search(r"'nonce-([\w-]+)'", policy)
    assert nonce is not None
    assert policy.startswith("default-src 'none';")
    assert text.count(f'nonce="{nonce[1]}"') == 2
    assert "unsafe" not in policy
    assert nonce[1] not in page.ask("GET", "/")[2].decode()


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/page.html", "//etc/passwd"]
)
def test_no_file_is_served(path: str, page: Served):
    assert page.ask("GET", path)[0] == 404


def test_a_drawing_is_told_as_it_grows(page: Served, pipeline):
    status, told = page.draw(WISH)
    assert status == 200
    assert told[0] == {"state": "waiting", "ahead": 0}
    assert [line["state"] for line in told[1:]] == ["drawing"] * (len(told) - 2) + ["done"]
    sizes = [line["size"] for line in told[1:-1]]
    assert list(dict.fromkeys(sizes)) == ["4x4", "8x8"]
    assert [line["last"] for line in told[1:-1]] == [False] * (len(told) - 3) + [True]
    wish = Offer.of(pipeline, "small", Limits()).wish(WISH)
    expected = draw(pipeline, wish, lambda make, size: True)
    assert expected is not None
    assert [base64.b64decode(one) for one in told[-2]["pictures"]] == list(expected.pictures)


def test_an_uploaded_picture_is_enlarged(page: Served):
    small = picture(0, (4, 4))
    status, told = _enlarge(page, encoded(small))
    assert status == 200
    stages = [line for line in told if line["state"] == "drawing"]
    assert list(dict.fromkeys(stage["size"] for stage in stages)) == ["4x4", "8x8"]
    assert [stage["step"] == 0 for stage in stages] == [True] + [False] * (len(stages) - 1)
    shown = Image.open(io.BytesIO(base64.b64decode(stages[0]["pictures"][0])))
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(small))


def test_an_uploaded_picture_is_varied(page: Served):
    given = picture(0, (8, 8))
    status, told = _enlarge(page, encoded(given), WISH | {"strength": 0.8}, "vary")
    assert status == 200
    stages = [line for line in told if line["state"] == "drawing"]
    # The picture as it was given is told whatever comes after it, though it has the size of the last ones.
    assert (stages[0]["step"], stages[0]["size"]) == (0, "8x8")
    assert (stages[-1]["last"], stages[-1]["size"]) == (True, "8x8")
    assert "4x4" in [stage["size"] for stage in stages]
    shown = Image.open(io.BytesIO(base64.b64decode(stages[0]["pictures"][0])))
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(given))
    assert len(set(stages[-1]["pictures"])) == 2
    assert _enlarge(page, encoded(given), WISH | {"strength": 2}, "vary") == (
        400,
        [{"error": "the strength must be a number from 0 to 1"}],
    )
    assert _enlarge(page, b"text", WISH | {"strength": 0.5}, "vary")[0] == 400


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        (WISH | {"steps": 10**9}, "the number of steps must be a whole number from 2 to 20"),
        (WISH | {"pictures": 5}, "the number of pictures must be a whole number from 1 to 4"),
        ([], "what was asked for cannot be read; load the page again"),
        ({"x" * 5000: 1}, "what was asked for is larger than 4096 bytes; choose a smaller one"),
    ],
)
def test_a_wish_out_of_bounds_is_one_sentence(wish: Any, sentence: str, page: Served):
    status, told = page.draw(wish)
    assert status in (400, 413)
    assert told == [{"error": sentence}]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"steps": NaN}', b"[" * 4000, b'{"seed": 1, "seed": 2}'])
def test_what_is_no_json_is_one_sentence(body: bytes, page: Served):
    status, _, content = page.ask("POST", "/draw", body, content_type="application/json")
    assert (status, json.loads(content)) == (400, {"error": "what was asked for cannot be read; load the page again"})


@pytest.mark.parametrize(
    ("data", "status", "sentence"),
    [
        (b"text", 400, "the file is no PNG, JPEG, WebP or BMP picture; choose another one"),
        (b"", 400, "the file is empty; choose a picture"),
        (bytes((10 << 20) + 1), 413, "the file is larger than 10 MiB; choose a smaller one"),
    ],
)
def test_a_bad_upload_is_one_sentence(data: bytes, status: int, sentence: str, page: Served):
    assert _enlarge(page, data) == (status, [{"error": sentence}])
    assert page.draw(WISH)[0] == 200


def test_no_more_of_an_upload_is_read_than_is_taken(page: Served):
    # Who says that a file of 1 TB follows is answered before it has come.
    with socket.create_connection(("127.0.0.1", page.port), 60) as connection:
        asked = quote(json.dumps(WISH | {"size": "4x4"}))
        head = f"POST /enlarge?wish={asked} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
        connection.sendall(f"{head}Content-Length: {10**12}\r\n\r\n".encode())
        with contextlib.suppress(ConnectionError):
            connection.sendall(bytes(11 << 20))
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_damaged_upload_fails_in_its_turn(page: Served):
    data = encoded(picture(0, (64, 64)), "JPEG")[:-200]
    told = _enlarge(page, data)[1][-1]
    assert told["state"] == "failed"
    assert told["error"].startswith("the picture cannot be read (")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example:80"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "[x"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"content_type": "text/plain"}, 400),
        ({"content_type": "application/x-www-form-urlencoded"}, 400),
        ({"host": "localhost:1", "origin": "http://localhost:1"}, 200),
        ({"host": "[::1]:1"}, 200),
        ({"host": f"{socket.gethostname()}:7860"}, 200),
    ],
)
def test_other_pages_cannot_ask(headers: dict[str, str], status: int, page: Served):
    found, told = page.draw(WISH, **headers)
    assert found == status
    assert status == 200 or list(told[0]) == ["error"]


def test_the_line_is_bounded_and_a_place_is_free_when_somebody_leaves(pipeline):
    with served(pipeline, waiting=1) as page:
        page.gate.let(2)
        with page.watching(WISH) as first:
            assert [next(first)["state"], next(first)["state"]] == ["waiting", "drawing"]
            with page.watching(WISH) as second:
                assert next(second) == {"state": "waiting", "ahead": 1}
                status, told = page.draw(WISH)
                assert status == 503
                assert told[0]["error"].startswith(
                    "2 drawings are under way or waiting, and there is room for no more;"
                )
            page.gate.let()
            assert list(first)[-1]["state"] == "done"
        assert page.draw(WISH)[0] == 200


def test_a_drawing_ends_when_its_visitor_has_left(pipeline):
    with served(pipeline) as page:
        page.gate.let(2)
        with page.watching(WISH) as lines:
            assert [next(lines)["state"], next(lines)["state"]] == ["waiting", "drawing"]
        # It is held in its third call at the latest; what comes after shows that the others were left out.
        before = page.gate.calls
        threading.Timer(0.5, page.gate.let).start()
        told = page.draw(WISH)[1]
        assert told[-1]["state"] == "done"
        whole = next(line["steps"] for line in told if line["state"] == "drawing")
        assert page.gate.calls - before <= whole + 1


def test_a_fault_of_ours_is_said_and_the_server_goes_on(page: Served, monkeypatch, caplog):
    def fail(*_: Any) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(application, "draw", fail)
    told = page.draw(WISH)[1][-1]
    assert told == {"state": "failed", "error": "KeyError, which should not happen; the server goes on"}
    assert "a drawing has failed" in caplog.text
    monkeypatch.undo()
    assert page.draw(WISH)[1][-1]["state"] == "done"


def test_nothing_is_written(pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with served(pipeline) as page:
        assert _enlarge(page, encoded(picture(0)))[0] == 200
        assert page.draw(WISH)[0] == 200
        held = [link for link in map(_target, Path("/proc/self/fd").glob("*")) if link.startswith(str(tmp_path))]
    assert list(tmp_path.iterdir()) == []
    assert held == []


def _target(link: Path) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(link)  # noqa: PTH115  # What it says, and not a path.
    return ""


# With one


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser") / "new") as found:
        yield found


def _widths(browser: Browser, place: str) -> list[int]:
    return browser.value(f"[...document.querySelectorAll('#{place} img')].map((image) => image.naturalWidth)")


def _status(browser: Browser) -> str:
    return browser.value("part('status').textContent")


@needs_browser
def test_a_browser_watches_a_picture_grow(page: Served, browser: Browser):
    browser.open(page.address)
    assert browser.value("document.title") == "small <b>"
    assert browser.value("part('about').textContent") == "Draws pictures of 8x8 pixels, by way of 4x4."
    assert browser.value("[...part('class').options].map((option) => option.text)") == ["any", *CLASSES]
    assert _status(browser) == "Nothing is drawn yet."
    for field, value in {"pictures-asked": 2, "steps": 6, "class": 2, "guidance": 2, "seed": 5}.items():
        browser.value(f"part('{field}').value = '{value}'")
    page.gate.let(2)
    browser.value("part('draw').click()")
    browser.wait("part('status').textContent.startsWith('Step ')")
    browser.wait("[...document.images].every((image) => image.complete)")
    assert re.fullmatch(r"Step [12] of \d+, at 4x4 pixels\.", _status(browser))
    assert _widths(browser, "pictures") == [4, 4]
    assert not browser.value("part('stop').disabled")
    page.gate.let()
    browser.wait("part('status').textContent.startsWith('Done in ')")
    browser.wait("[...document.images].every((image) => image.complete)")
    assert _widths(browser, "pictures") == [8, 8]
    assert _widths(browser, "levels") == [4, 8]
    assert browser.value("part('progress').value") == 1
    label = r"'</script><b>&'\'''"
    assert browser.value("part('command').textContent") == (
        f"scalespace sample MODEL --num-images 2 --steps 6 --solver corrected --seed 5 --class-label {label} "
        "--guidance-scale 2 --output pictures"
    )


@needs_browser
def test_a_browser_asks_for_the_guidance_of_the_shipped_model(browser: Browser):
    pipeline = small_pipeline()
    with served(pipeline, None, guidance_of(pipeline)) as page:
        browser.open(page.address)
        assert browser.value("part('guidance').value") == "2"
        browser.value("part('steps').value = 6; part('draw').click()")
        browser.wait("part('status').textContent.startsWith('Done in ')")
        assert browser.value("part('command').textContent").endswith(
            "--guidance-scale 2 --guidance-interval 1.2 1000 --output pictures"
        )


@needs_browser
def test_a_browser_stops_a_drawing(page: Served, browser: Browser):
    browser.open(page.address)
    page.gate.let(2)
    browser.value("part('draw').click()")
    browser.wait("part('status').textContent.startsWith('Step ')")
    browser.value("part('stop').click()")
    browser.wait("part('status').textContent === 'Stopped.'")
    assert browser.value("part('stop').disabled")
    page.gate.let()


@needs_browser
def test_a_browser_has_a_picture_enlarged_and_is_told_of_bad_ones(page: Served, browser: Browser, tmp_path):
    files = {
        "text.png": (b"text", "The file is no PNG, JPEG, WebP or BMP picture; choose another one."),
        "enormous.png": (bytes((10 << 20) + 1), "The file is larger than 10 MiB; choose a smaller picture."),
        "empty.png": (b"", "The file is empty; choose a picture."),
    }
    browser.open(page.address)
    browser.value("part('steps').value = 6")
    for name, (data, sentence) in files.items():
        (tmp_path / name).write_bytes(data)
        browser.choose("#file", tmp_path / name)
        browser.wait(f"part('status').textContent === {json.dumps(sentence)}")
        assert browser.value("part('status').className") == "wrong"
    (tmp_path / "good.jpg").write_bytes(encoded(picture(0, (50, 30)), "JPEG"))
    browser.choose("#file", tmp_path / "good.jpg")
    browser.wait("part('status').textContent.startsWith('Done in ')")
    browser.wait("[...document.images].every((image) => image.complete)")
    assert _widths(browser, "levels") == [4, 8]
    assert "4x4, given" in browser.value("part('levels').textContent")
    assert browser.value("part('status').className") == ""


@needs_browser
def test_a_browser_has_a_picture_varied_and_sees_the_way(page: Served, browser: Browser, tmp_path):
    (tmp_path / "good.png").write_bytes(encoded(picture(0, (8, 8))))
    browser.open(page.address)
    browser.value("part('steps').value = 6")
    assert browser.value("[part('from-field').hidden, part('strength-field').hidden]") == [False, True]
    for field, value, event in (("task", "vary", "change"), ("strength", "0.8", "input")):
        browser.value(f"part('{field}').value = '{value}'; part('{field}').dispatchEvent(new Event('{event}'))")
    assert browser.value("[part('from-field').hidden, part('strength-field').hidden]") == [True, False]
    assert browser.value("part('strength-shown').textContent") == "0.80"
    page.gate.let(1)
    browser.choose("#file", tmp_path / "good.png")
    browser.wait("part('status').textContent.startsWith('Varying: step 1 of ')")
    browser.wait("[...document.images].every((image) => image.complete)")
    assert _widths(browser, "levels") == [8, 4]
    page.gate.let()
    browser.wait("part('status').textContent.startsWith('Done in ')")
    browser.wait("[...document.images].every((image) => image.complete)")
    assert _widths(browser, "levels") == [8, 4, 8]
    assert "8x8, given" in browser.value("part('levels').textContent")
    assert browser.value("part('again').textContent") == "Vary it again"
    assert browser.value("part('command').textContent") == ""


@needs_browser
def test_a_browser_shows_only_what_a_model_has(browser: Browser):
    with served(small_pipeline()) as page:
        browser.open(page.address)
        hidden = browser.value(
            "['class-field', 'guidance-field', 'size-field', 'uploading'].map((id) => part(id).hidden)"
        )
        assert hidden == [True, True, False, False]
        browser.value("part('pictures-asked').value = 99; part('draw').click()")
        # The browser itself tells what is out of bounds.
        assert not browser.value("part('form').checkValidity()")
        assert _status(browser) == "Nothing is drawn yet."
    browser.value("part('pictures-asked').value = 1; part('draw').click()")
    browser.wait("part('status').textContent.startsWith('The page\\'s server cannot be reached')")


@needs_browser
def test_the_browser_asked_for_nothing_else_and_had_nothing_to_complain_of(page: Served, browser: Browser):
    browser.open(page.address)
    told = [
        line for line in browser.complaints() if "status of 400" not in line and "ERR_CONNECTION_REFUSED" not in line
    ]
    assert [line for line in told if 'canceled": true' not in line] == []
    assert all(address.startswith("http://127.0.0.1:") for address in browser.asked_for())
    assert len(browser.asked_for()) > 5
