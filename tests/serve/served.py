"""Small models behind a real server on this machine, whose network can be held at any call."""

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.small_models import small_network, small_scheduler

from scalespace import ScaleSpacePipeline
from scalespace.serve.line import Line
from scalespace.serve.offer import Limits, Offer
from scalespace.serve.server import PageServer, listening

__all__ = ["CLASSES", "WISH", "Served", "classes_pipeline", "guidance_of", "served"]

CLASSES = ("cat", "dog", "</script><b>&'")

WISH = {"pictures": 2, "steps": 6, "solver": "ddim", "seed": 3, "class": 1, "guidance": 1, "size": "8x8"}
"""What ``classes_pipeline`` has on offer."""


def guidance_of(pipeline: ScaleSpacePipeline) -> dict[str, Any]:
    """Guidance by a worse model without classes."""
    guide = ScaleSpacePipeline(small_network(1), pipeline.scheduler)
    return {"guidance_scale": 2.0, "guidance_interval": (1.2, 1000.0), "guidance_model": guide}


def classes_pipeline(**options: Any) -> ScaleSpacePipeline:
    """A small model with three classes, which can be guided."""
    network = small_network(num_classes=3, null_class=True)
    return ScaleSpacePipeline(network, small_scheduler(solver="corrected", **options), dict(enumerate(CLASSES)))


class Gate:
    """Holds a network before its calls."""

    def __init__(self, pipeline: ScaleSpacePipeline):
        self._left, self._moved = 10**9, threading.Condition()
        self.calls = 0
        """Number of calls that were begun."""
        pipeline.unet.register_forward_pre_hook(self._pass)

    def let(self, calls: int = 10**9) -> None:
        """Let so many more calls through, and hold those that follow."""
        with self._moved:
            self._left = calls
            self._moved.notify_all()

    def _pass(self, *_: Any) -> None:
        with self._moved:
            assert self._moved.wait_for(lambda: self._left > 0, 60)
            self._left -= 1
            self.calls += 1


@dataclass
class Served:
    """A server that is up.

    Args:
        port: Its port.
        gate: Holds the network.
    """

    port: int
    gate: Gate

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content of an answer."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def draw(self, wish: Any, **headers: str) -> tuple[int, list[dict[str, Any]]]:
        """Status and lines of the answer to a wish."""
        status, _, content = self.ask(
            "POST", "/draw", json.dumps(wish), **{"content_type": "application/json"} | headers
        )
        return status, [json.loads(line) for line in content.decode().splitlines()]

    @contextmanager
    def watching(self, wish: Any) -> Iterator[Iterator[dict[str, Any]]]:
        """The lines of an answer as they come. Who leaves has left."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request("POST", "/draw", json.dumps(wish), {"content-type": "application/json"})
            with connection.getresponse() as answer:
                yield map(json.loads, answer)


@contextmanager
def served(
    pipeline: ScaleSpacePipeline,
    name: str | None = "small",
    guidance: Mapping[str, Any] | None = None,
    **limits: int,
) -> Iterator[Served]:
    """Serve a model while the body runs."""
    bounds = Limits(**{"steps": 20, "pictures": 4, "waiting": 1} | limits)
    line = Line(bounds.waiting)
    server = PageServer(pipeline, Offer.of(pipeline, name, bounds, guidance), line, guidance)
    gate = Gate(pipeline)
    with listening("127.0.0.1", 0) as door:
        port = door.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        try:
            yield Served(port, gate)
        finally:
            line.stop()
            gate.let()
            server.should_exit = True
            thread.join(60)
            line.close()
    assert not thread.is_alive()
