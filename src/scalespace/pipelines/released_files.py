"""The files that the paper authors' released code writes, as models of this package and back.

Such a file is a pickle of tensors by their names (``released.py``), alone or as {"model": those, "step": number of training
steps}. It is read by torch's unpickler for tensors alone, which runs nothing that a pickle names.

The process of a released model is not in its file: how many levels it has and where they begin is to be told.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from scalespace.errors import UserError, cause, printable
from scalespace.files import write_file
from scalespace.manifest import checksum, read_manifest
from scalespace.memory import check_memory
from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.pipelines.folders.card import Made
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.released import export_released_state, released_image_size, released_network
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.reading import check_readable, reading

__all__ = [
    "RELEASED",
    "ReleasedFile",
    "check_degradation",
    "load_released",
    "read_released",
    "save_released",
    "write_released",
]

RELEASED = "released"
"""Where the manifest of a model tells of the file that it was converted from."""

_PAPERS = "bilinear"
_NOT_THE_PAPERS = "its process is not one of the paper's"
_AGAIN = "download it again from where it was released"
_GROUPS = 32  # in which the released code normalises, at every width


@dataclass(frozen=True)
class ReleasedFile:
    """What a released file holds.

    Args:
        state: Parameters in the released layout, float32.
        step: Number of training steps; None where the file does not tell it.
        wrapped: Whether the parameters lie in a dictionary with their step.
        name: Name of the file.
        sha256: Its checksum.
        notes: What is worth telling of it, one sentence each without its full stop.
    """

    state: Mapping[str, Tensor]
    step: int | None
    wrapped: bool
    name: str
    sha256: str
    notes: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """What the manifest of a converted model tells of it."""
        told = {"file": self.name, "sha256": self.sha256, "step": self.step, "wrapped": self.wrapped}
        return {RELEASED: told}

    def made(self) -> Made:
        """What the card of a converted model tells of it."""
        line = (
            f"Converted from `{self.name}` (SHA-256 `{self.sha256}`), a file in the layout of the paper authors' released "
            "code. What it was trained on is not in the file."
        )
        return Made(data=[line], compute={} if self.step is None else {"steps": f"{self.step:,}"})


def read_released(path: Path) -> ReleasedFile:
    """Read a released file. Nothing that it names is run.

    Raises:
        UserError: If there is none, it is damaged, or it holds anything but parameters and their step.
    """
    check_readable(path)
    if not path.exists():
        raise UserError(f"there is no file {path}; give one that the paper authors' released code wrote")
    content = _unpickled(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__} and no parameters by their names; {_AGAIN}")
    state, step, wrapped = content, None, "model" in content
    if wrapped:
        state, step = content["model"], content.get("step")
        if others := sorted(map(str, content.keys() - {"model", "step"})):
            raise UserError(
                f"{path} holds {', '.join(others)} beside a model and its step, which would be lost; save a file without them"
            )
        if type(step) not in (int, type(None)) or (step is not None and not 0 <= step < 10**12):
            raise UserError(f"{path} has {step!r:.60} as its number of steps; {_AGAIN}")
    if not isinstance(state, dict) or not state:
        raise UserError(f"{path} holds no parameters by their names; {_AGAIN}")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(f"{path} holds {name!r:.60}, which is no parameter; {_AGAIN}")
        if value.layout != torch.strided or not value.is_floating_point() or value.device.type != "cpu":
            raise UserError(f"{path} holds {name} as {value.dtype} ({value.layout}); only floating tensors are weights")
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"{path} has weights that are NaN or infinite ({name}); {_AGAIN}")
    dtypes = sorted({str(value.dtype).removeprefix("torch.") for value in state.values()} - {"float32"})
    notes = (f"weights in {' and '.join(dtypes)} were made float32",) if dtypes else ()
    state = {name: value.detach().float() for name, value in state.items()}
    return ReleasedFile(state, step, wrapped, printable(path.name), checksum(path), notes)


def load_released(released: ReleasedFile, scheduler: ScaleSpaceScheduler) -> ScaleSpacePipeline:
    """The model of a released file, which does what the released code does (``released_quirks``).

    Args:
        released: The file. The weights are shared with it.
        scheduler: Scheduler with the process that the model was trained on.

    Raises:
        LayoutError: If parameters are missing or there are others; it has the names of all.
        UserError: If it is no released model, or of another size than the process.
    """
    told, sizes = released_image_size(released.state), scheduler.sizes
    if told is not None and scheduler.image_size != (told, told):
        height, width = scheduler.image_size
        raise UserError(
            f"the weights in {released.name} are of a model of {told}x{told} pixels, and the process is one of "
            f"{height}x{width}; give the preset of the weights"
        )
    try:
        network = released_network(released.state, levels=len(sizes), image_size=told or scheduler.image_size[0])
        pipeline = ScaleSpacePipeline(network, scheduler)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(
            f"no network fits the weights in {released.name} and the process ({cause(error)}); give the preset of the weights"
        ) from error
    pipeline.made = released.made()
    return pipeline


def check_degradation(name: str | None) -> None:
    """Refuse the degradation of a model that the released code cannot run.

    Args:
        name: Its name; None if it is not known yet.

    Raises:
        UserError: If it is not the paper's.
    """
    if name not in (None, _PAPERS):
        raise _cannot_run(_NOT_THE_PAPERS)


def save_released(pipeline: ScaleSpacePipeline) -> tuple[dict[str, Any], int | None]:
    """What a file has to hold for the released code to load a model, and the number of training steps in it.

    A model that was converted from such a file gives the same content again.

    Raises:
        UserError: If the released code does not know such a model.
    """
    if (why := _unknown_there(pipeline)) is not None:
        raise _cannot_run(why)
    known = _facts(pipeline)
    state = {name: value.detach().float().contiguous() for name, value in export_released_state(pipeline.unet).items()}
    step = known.get("step")
    if not known.get("wrapped", True):
        return state, step
    return {"model": state, **({} if step is None else {"step": step})}, step


def write_released(content: Mapping[str, Any], path: Path) -> None:
    """Write what ``save_released`` gives.

    Raises:
        UserError: If it cannot be written.
    """

    def write(file: Path) -> None:
        # Inside, torch would name the folder of a file's contents after the temporary file.
        with file.open("wb") as stream:
            torch.save(dict(content), stream)

    write_file(path, write)


def _unpickled(path: Path) -> Any:
    check_memory(f"file {path}", {"its weights": path.stat().st_size}, "use a machine with more memory")
    # Of bytes by chance the unpickler raises anything, and it warns of protocols that it may not know, which is said if so.
    with (
        reading(path, _AGAIN, Exception, fault="is damaged, or no file that the released code wrote"),
        warnings.catch_warnings(action="ignore"),
    ):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except UnpicklingError as error:
            raise UserError(
                f"{path} is no file of tensors alone, but damaged or a pickle that names code, which weights have no need of; "
                f"nothing of it was run, so {_AGAIN}"
            ) from error


def _facts(pipeline: ScaleSpacePipeline) -> Mapping[str, Any]:
    folder = Path(str(pipeline.config.get("_name_or_path") or ""))
    manifest = read_manifest(folder, "restore it, or delete it")
    facts = {} if manifest is None else manifest.facts.get(RELEASED)
    step = facts.get("step") if isinstance(facts, dict) else None
    if not isinstance(facts, dict) or not isinstance(step, int | None):
        return {}
    return facts


def _cannot_run(why: str) -> UserError:
    return UserError(
        f"the released code cannot run this model ({why}); only a model as it trains them can be converted"
    )


def _unknown_there(pipeline: ScaleSpacePipeline) -> str | None:
    """Why the released code cannot run a model; None if it can."""
    network, settings = pipeline.unet, pipeline.scheduler.config
    if not isinstance(network, FlexiUNet):
        return f"its network is a {type(network).__name__}"
    sizes = pipeline.scheduler.sizes
    groups = {module.num_groups for module in network.modules() if isinstance(module, nn.GroupNorm)}
    reasons = {
        "it runs all layers at every resolution": network.full or network.shared,
        "it runs the last decoder block, which the released code leaves out": not network.released_quirks,
        _NOT_THE_PAPERS: settings["process"] is not None or settings["degradation"] != _PAPERS,
        "its noise is shifted": settings["shifted"],
        "it does not predict the clean image": settings["prediction_type"] != "sample",
        f"it normalises in {min(groups)} groups, and not in {_GROUPS}": groups != {_GROUPS},
        "its resolutions are not square halves of each other": any(
            size != (sizes[0][0] >> level,) * 2 for level, size in enumerate(sizes)
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
