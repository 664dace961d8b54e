"""What the page's server answers: the page, and drawings as they grow.

It serves one file, the page, and writes none: uploads and pictures are kept in memory only, until they are sent.

    GET  /         the page
    POST /draw     a wish as JSON
    POST /enlarge  the bytes of a picture, with the wish as JSON in the query ?wish=
    POST /vary     the same, for variations of the picture

All three answer with lines of JSON: {"state": "waiting", "ahead": N}, {"state": "drawing", ...} with the newest pictures of a
size, which are PNG files in base64, and at the end {"state": "done", ...} or {"state": "failed", "error": SENTENCE}.
"""

from __future__ import annotations

import asyncio
import base64
import html
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from scalespace.errors import UserError, cause
from scalespace.memory import memory_ran_out
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.reading import parse_json
from scalespace.serve.drawing import Stage, draw, enlarge, vary
from scalespace.serve.line import FullError, Job, Line, Work
from scalespace.serve.offer import Offer, Task, Wish, named
from scalespace.serve.uploads import MOST_BYTES, check_upload, given_picture
from scalespace.serve.visitors import check_visitor

__all__ = ["application"]

_MOST_WORDS = 4096  # bytes of a wish
_PATIENCE = 60  # seconds that a visitor's upload may take
_REFUSED, _STRANGE, _TOO_LARGE, _FULL = 400, 403, 413, 503
_PAGE = "page.html"

Answer = Callable[[Request], Any]


class _TooLargeError(UserError):
    """More was sent than is read."""


def application(
    pipeline: ScaleSpacePipeline, offer: Offer, line: Line, guidance: Mapping[str, Any] | None = None
) -> Starlette:
    """The server's application.

    Args:
        pipeline: The model.
        offer: What it has to offer.
        line: The line that drawings wait in.
        guidance: As ``Offer.of`` takes it.
    """

    async def page(request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        return Response(_page(offer, nonce), headers=_headers(nonce), media_type="text/html")

    async def draw_picture(request: Request) -> Response:
        _check_kind(request, "application/json")
        wish = _wish(offer, await _body(request, _MOST_WORDS, "what was asked for"))
        return _stream(line, wish, offer, lambda watch: draw(pipeline, wish, watch, guidance))

    async def of_picture(request: Request, task: Task) -> Response:
        _check_kind(request, "application/octet-stream")
        wish = _wish(offer, request.query_params.get("wish", "").encode(), task)
        data = await _body(request, MOST_BYTES, "the file")
        check_upload(data)

        def work(watch: Any) -> Stage | None:
            # In its turn, so that several large pictures are never decoded at once.
            picture = given_picture(data, pipeline, wish.size)
            return (
                enlarge(pipeline, picture, wish, watch) if task == "enlarge" else vary(pipeline, picture, wish, watch)
            )

        return _stream(line, wish, offer, work)

    async def enlarge_picture(request: Request) -> Response:
        return await of_picture(request, "enlarge")

    async def vary_picture(request: Request) -> Response:
        return await of_picture(request, "vary")

    async def no_icon(request: Request) -> Response:
        return Response(status_code=204)

    routes = [
        Route("/", _guarded(page)),
        Route("/favicon.ico", _guarded(no_icon)),
        Route("/draw", _guarded(draw_picture), methods=["POST"]),
        Route("/enlarge", _guarded(enlarge_picture), methods=["POST"]),
        Route("/vary", _guarded(vary_picture), methods=["POST"]),
    ]
    return Starlette(routes=routes)


def _guarded(answer: Answer) -> Answer:
    """An answer to visitors of the page alone, with errors for users as JSON."""

    async def guarded(request: Request) -> Response:
        try:
            check_visitor(request.headers)
        except UserError as error:
            return _refusal(error, _STRANGE)
        try:
            return await answer(request)
        except ClientDisconnect:
            return Response(status_code=_REFUSED)
        except FullError as error:
            return _refusal(error, _FULL)
        except _TooLargeError as error:
            return _refusal(error, _TOO_LARGE)
        except UserError as error:
            return _refusal(error, _REFUSED)

    return guarded


def _refusal(error: UserError, status: int) -> Response:
    # What was not read of a large upload is not waited for.
    headers = {"Connection": "close"} if status == _TOO_LARGE else {}
    return JSONResponse({"error": str(error)}, status, headers=_headers() | headers)


def _headers(nonce: str | None = None) -> dict[str, str]:
    """Nothing from elsewhere is loaded or run, and nothing is kept or framed."""
    own = (
        ""
        if nonce is None
        else f" script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self';"
    )
    return {
        "Content-Security-Policy": f"default-src 'none';{own} base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


def _page(offer: Offer, nonce: str) -> str:
    values = {
        "title": html.escape(offer.name),
        "nonce": nonce,
        # A browser ends a script at the first "</", wherever it stands.
        "data": json.dumps(offer.as_json() | {"most_bytes": MOST_BYTES}).replace("<", "\\u003c"),
    }
    text = files("scalespace.serve").joinpath(_PAGE).read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"%{name}%", value)
    return text


def _check_kind(request: Request, kind: str) -> None:
    # Other pages can send these kinds only if the server allows it beforehand, which it does not.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != kind:
        raise UserError(f"this address takes {kind} alone; load the page again")


async def _body(request: Request, most: int, what: str) -> bytes:
    """What was sent, if it is not more than is allowed, of which no more is read."""
    size, parts = 0, []
    try:
        async with asyncio.timeout(_PATIENCE):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    shown = f"{most >> 20} MiB" if most >> 20 else f"{most} bytes"
                    raise _TooLargeError(f"{what} is larger than {shown}; choose a smaller one")
                parts.append(part)
    except TimeoutError as error:
        raise UserError(f"{what} took more than {_PATIENCE} seconds to arrive; try again") from error
    return b"".join(parts)


def _wish(offer: Offer, words: bytes, task: Task = "draw") -> Wish:
    try:
        asked = parse_json(words.decode())
    except ValueError as error:
        raise UserError("what was asked for cannot be read; load the page again") from error
    return offer.wish(asked, task)


def _stream(line: Line, wish: Wish, offer: Offer, work: Work) -> Response:
    job = line.enter(work)
    return StreamingResponse(_lines(line, job, wish, offer), media_type="application/x-ndjson", headers=_headers())


async def _lines(line: Line, job: Job, wish: Wish, offer: Offer) -> AsyncIterator[str]:
    begun = time.monotonic()
    ahead = None
    try:
        async for stages in job.changes():
            if job.ahead != ahead and not job.ended:
                ahead = job.ahead
                yield _line({"state": "waiting", "ahead": ahead})
            for stage in stages:
                yield _line(_told(stage))
        # Not inside: a drawing may end while its stages are told, and then the last ones are still to come.
        if job.error is not None:
            yield _line({"state": "failed", "error": _sentence(job.error)})
        else:
            yield _line({"state": "done", "seconds": round(time.monotonic() - begun, 1)})
    finally:
        # Also where the visitor has gone, or the server ends.
        line.leave(job)


def _told(stage: Stage) -> dict[str, Any]:
    pictures = [base64.b64encode(picture).decode() for picture in stage.pictures]
    return {
        "state": "drawing",
        "step": stage.step,
        "steps": stage.steps,
        "size": named(stage.size),
        "pictures": pictures,
        "last": stage.last,
    }


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values) + "\n"


def _sentence(error: BaseException) -> str:
    if memory_ran_out(error):
        return "the memory ran out; ask for fewer pictures"
    if isinstance(error, ValueError):
        return cause(error)
    logging.getLogger(__name__).error("a drawing has failed, which should not happen", exc_info=error)
    return f"{type(error).__name__}, which should not happen; the server goes on"
