"""The page's server: it listens, says where, and ends with Ctrl-C."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn

from scalespace.errors import UserError, cause
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.serve.application import application
from scalespace.serve.line import Line
from scalespace.serve.offer import Limits, Offer

__all__ = ["PageServer", "address_of", "listening", "serve"]

_PARTING = 2  # seconds that answers under way are given when the server ends
_CONNECTIONS = 200  # at a time
_LARGEST_PORT = 65535


def serve(
    pipeline: ScaleSpacePipeline,
    name: str | None,
    address: tuple[str, int],
    limits: Limits,
    say: Callable[[str], None],
    guidance: Mapping[str, Any] | None = None,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        pipeline: The model, on its device.
        name: Its name; None for the model of the package.
        address: IP address and port to listen at; port 0 is one that is free.
        limits: Of what is asked for.
        say: Is told the page's address once it can be opened.
        guidance: As ``Offer.of`` takes it.

    Raises:
        UserError: If the model cannot be served within the limits, or the address cannot be listened at.
    """
    offer = Offer.of(pipeline, name, limits, guidance)
    with listening(*address) as door:
        line = Line(limits.waiting)
        try:
            # The server meets Ctrl-C by ending in good order, and raises it once more after that.
            with suppress(KeyboardInterrupt):
                say(address_of(door))
                PageServer(pipeline, offer, line, guidance).run(sockets=[door])
        finally:
            line.close()


class PageServer(uvicorn.Server):
    """A server that has its drawings end when it is told to.

    Args:
        pipeline: The model.
        offer: What it has to offer.
        line: The line that drawings wait in.
        guidance: As ``Offer.of`` takes it.
    """

    def __init__(
        self, pipeline: ScaleSpacePipeline, offer: Offer, line: Line, guidance: Mapping[str, Any] | None = None
    ):
        self._line = line
        super().__init__(
            uvicorn.Config(
                application(pipeline, offer, line, guidance),
                loop="asyncio",
                http="h11",
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=_PARTING,
                limit_concurrency=_CONNECTIONS,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._line.stop()
        super().handle_exit(sig, frame)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: An IP address of this machine, or "localhost".
        port: Its port; 0 is one that is free.

    Raises:
        UserError: If nobody can listen there.
    """
    try:
        # Names are not looked up, which takes its time and may lead to another machine.
        ip = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as error:
        raise UserError(
            f'--host is "{host}"; give 127.0.0.1 for this machine alone, 0.0.0.0 for all who reach it, or one of its addresses'
        ) from error
    if not 0 <= port <= _LARGEST_PORT:
        raise UserError(f"--port is {port}; give a number from 1 to {_LARGEST_PORT}, or 0 for any that is free")
    family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
    try:
        return socket.create_server((str(ip), port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why, remedy = "is in use", "end what uses it, or give another --port"
        elif error.errno == errno.EACCES:
            why, remedy = "may not be listened at", "give a --port above 1023"
        else:
            why, remedy = f"cannot be listened at ({_why(error)})", "give another --host or --port"
        raise UserError(f"port {port} of {host} {why}; {remedy}") from error


def address_of(door: socket.socket) -> str:
    """The address that a browser on this machine opens the page at."""
    host, port = door.getsockname()[:2]
    ip = ipaddress.ip_address(host)
    # Others open it by the name of the machine.
    name = socket.gethostname() if ip.is_unspecified else f"[{host}]" if ip.version == 6 else host
    return f"http://{name}:{port}/"


def _why(error: OSError) -> str:
    # asyncio and socket add the address to what the system says.
    return cause(error).partition(" (")[0]
