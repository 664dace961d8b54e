"""``scalespace serve``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, ClassVar

import tyro

from scalespace.commands.parsing import device_named, dtype_named, on_hub, read, say
from scalespace.effects import Need, Needs
from scalespace.errors import UserError, printable
from scalespace.reading import path_of
from scalespace.training.configuration import DtypeName

__all__ = ["Arguments", "run"]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options of the command."""

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
    variant: str | None = None
    """Name of the weights to take, where the model has several, for example fp16. None takes those without a name."""
    revision: str | None = None
    """Only with a model on the Hugging Face Hub: branch, tag or commit. None takes the main branch."""
    trust_model: bool = False
    """Import the module of a degradation that the model names, which runs it: know where model and module are from."""
    dtype: DtypeName = "float32"
    """Number format of the network. States stay in float32."""
    device: str = "auto"
    """Device to run on: cpu, cuda, mps and so on. auto takes an accelerator if there is one."""
    json: bool = False
    """Print the address of the page as JSON."""
    quiet: bool = False
    """Show no progress bars while the model is loaded."""

    needs: ClassVar[Needs] = {
        "trust_model": (
            Need(
                lambda given: given.model is not None,
                "on the model of the package",
                "name a model with a degradation of your own",
            ),
        ),
        "revision": (
            Need(lambda given: on_hub(given.model), "on a model in a folder", "name one on the Hugging Face Hub"),
        ),
    }


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
    from scalespace.pipelines.shipped import load_shipped
    from scalespace.serve.offer import Limits
    from scalespace.training.models import open_model

    limits = Limits(given.max_steps, given.max_pictures, given.max_waiting)
    # Before a large model is loaded.
    listening(given.host, given.port).close()
    chosen = {"variant": given.variant, "dtype": dtype_named(given.dtype)}
    if given.model is None:
        pipeline, name = load_shipped(**chosen), None
    else:
        pipeline = open_model(
            path_of(given.model),
            lambda line: say(line, error=given.json),
            not given.quiet,
            revision=given.revision if on_hub(given.model) else None,
            trust=given.trust_model,
            **chosen,
        )
        name = _name(given.model)
    pipeline.to(device_named(given.device))
    # Guidance runs the network on twice the pictures.
    copies = 1 if pipeline.unet.no_class is None else 2
    check_batch(pipeline.unet, copies * limits.pictures, pipeline.device, "lower --max-pictures")

    def tell(address: str) -> None:
        say(
            json.dumps({"address": address, "model": given.model})
            if given.json
            else f"page       {address} (Ctrl-C ends it)"
        )

    serve(pipeline, name, (given.host, given.port), limits, tell)
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
