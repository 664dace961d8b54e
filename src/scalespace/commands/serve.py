"""``scalespace serve``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from scalespace.commands.options.loading import Loading
from scalespace.commands.parsing import device_named, dtype_named, on_hub, read, say
from scalespace.errors import UserError, printable
from scalespace.reading import path_of

__all__ = ["Arguments", "run"]


@dataclass(frozen=True, kw_only=True)
class _Page:
    """What is served, where, and how much of it."""

    model: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="MODEL")] = None
    """Folder of a model, run or checkpoint, or OWNER/NAME on the Hugging Face Hub. None takes the model of the package."""
    host: str = "127.0.0.1"
    """IP address to listen at. 127.0.0.1 is for this machine alone; 0.0.0.0 lets in everybody who can reach it."""
    port: int = 7860
    """Port to listen at. 0 takes one that is free."""
    max_steps: int = 250
    """Largest number of sampling steps that can be asked for."""
    max_pictures: int = 16
    """Largest number of pictures that can be asked for at once."""
    max_waiting: int = 8
    """Largest number of drawings that wait for their turn; who comes then is told to come later."""


@dataclass(frozen=True, kw_only=True)
class Arguments(Loading, _Page):
    """The options of the command."""

    json: bool = False
    """Print the address of the page as JSON."""
    quiet: bool = False
    """Show no progress bars while the model is loaded."""

    @property
    def named(self) -> tuple[str | None, ...]:
        return (self.model,)


def run(words: list[str]) -> None:
    """Serve a page on which a model can be tried in a browser: it draws while it is watched, and enlarges pictures.

    The page is served until Ctrl-C. It needs nothing from the net, and neither writes nor shows files of this machine.

    example: scalespace serve

    example: scalespace serve runs/photos --port 8000
    """
    given = read(Arguments, words, run)
    try:
        from scalespace.serve.server import listening, serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise UserError("the page needs two more packages; run pip install 'scale-space-diffusion[serve]'") from error
    from scalespace.pipelines.sampling import check_batch
    from scalespace.pipelines.shipped import shipped_guidance
    from scalespace.serve.offer import Limits

    limits = Limits(given.max_steps, given.max_pictures, given.max_waiting)
    # Before a large model is loaded.
    listening(given.host, given.port).close()
    (pipeline,), name = given.loaded, None if given.model is None else _name(given.model)
    pipeline.to(device_named(given.device))
    guidance = None
    if name is None:
        guidance = shipped_guidance(pipeline.device, variant=given.variant, dtype=dtype_named(given.dtype))
    # Guidance runs the network on twice the pictures.
    copies = 1 if pipeline.unet.no_class is None else 2
    check_batch(pipeline.unet, copies * limits.pictures, pipeline.device, "lower --max-pictures")

    def tell(address: str) -> None:
        say(
            json.dumps({"address": address, "model": given.model})
            if given.json
            else f"page       {address} (Ctrl-C ends it)"
        )

    serve(pipeline, name, (given.host, given.port), limits, tell, guidance)
    if not given.json:
        say("the page is closed")


def _name(model: str) -> str:
    """What the page calls a model. Where on the machine it lies is not its visitors' business."""
    if on_hub(model):
        return model
    from scalespace.training.run_directory import MODEL

    path = path_of(model).resolve()
    # Every run's model lies in a folder of that name.
    return printable(path.parent.name if path.name == MODEL else path.name)
