"""What a trained model does in the first minute: pictures, how they grew, and what they cost beside one resolution."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from scalespace.errors import UserError, cause
from scalespace.files import write_file
from scalespace.networks.flops import path_gflops
from scalespace.networks.network import Size
from scalespace.pipelines.guidance import guidance_given
from scalespace.pipelines.pictures import Trajectory, image_generators, picture_grid, to_picture
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.sampling import check_batch
from scalespace.tasks.upscaling import upscale

__all__ = ["Demo", "drawing_gflops", "show"]

_GROWING, _MOVING = 4, 16  # pictures of which the way is shown in growth.png and growth.webp
_LEVELS_UP = 2  # that pictures are enlarged by, if there are so many
_TIMED_CALLS = 3
_TIMED_BATCH = 8
_ONE_LEVEL_CALLS = 1000


@dataclass(frozen=True)
class Demo:
    """What was drawn, and what it took.

    Args:
        pictures: Number of pictures.
        calls: Network calls a picture, by the (height, width) of the states that they take, from the smallest up; those of a
            guide are not counted.
        gflops: GFLOPs a picture, a multiply-add counted as two, with those of the guide.
        guide_gflops: Those of the guide; 0 without one.
        seconds: Time for drawing all pictures.
        one_level_gflops: GFLOPs a picture in 1000 calls at the full resolution.
        one_level_seconds: Time of those calls for all pictures, from a few that were timed.
        grid: All pictures.
        growth: The first four on their way up.
        animation: The first 16 on their way up.
        enlarged: Pictures that were given at a low resolution: so, enlarged by bicubic interpolation, twice by the model, and
            as they were.
        enlarged_error: Root mean square, in levels of 255, of what the model's own differ in when they are brought down again.
    """

    pictures: int
    calls: dict[Size, int]
    gflops: float
    guide_gflops: float
    seconds: float
    one_level_gflops: float
    one_level_seconds: float
    grid: Path
    growth: Path
    animation: Path
    enlarged: Path
    enlarged_error: float
    one_level_calls: int = field(default=_ONE_LEVEL_CALLS, init=False)

    def as_json(self) -> dict[str, Any]:
        """Everything as values that JSON knows."""
        calls = {"{}x{}".format(*size): count for size, count in self.calls.items()}
        files = {name: str(value) for name, value in asdict(self).items() if isinstance(value, Path)}
        return asdict(self) | {"calls": calls} | files


def show(
    pipeline: ScaleSpacePipeline,
    folder: Path,
    given: Tensor,
    *,
    num_images: int = 64,
    steps: int = 30,
    seed: int = 0,
    guidance: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Demo:
    """Draw pictures without classes, write them with their way up, and time them beside calls at the full resolution.

    Args:
        pipeline: The model, with its solver chosen, on its device and in its precision.
        folder: New folder for grid.png, growth.png, growth.webp and enlarged.png.
        given: Pictures in [-1, 1] at the full resolution, shape (N, C, H, W), of which the model is given small versions.
        num_images: Number of pictures.
        steps: Sampling steps, as ``ScaleSpaceScheduler.set_timesteps`` takes them.
        seed: Seed of the pictures, 0..2^32 - 1.
        guidance: Arguments guidance_scale, guidance_interval and guidance_model of the model's call, for the pictures drawn
            from noise; None for no guidance.
        progress: Whether to show bars on stderr.

    Raises:
        UserError: If the arguments do not fit the model or the memory, or the folder holds something.
    """
    if num_images < 1:
        raise UserError(f"--num-images is {num_images}; give at least 1")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} holds files already, maybe of an earlier demo; delete it, or give another --output")
    try:
        pipeline.scheduler.set_timesteps(steps)
        image_generators(seed, ())
    except ValueError as error:
        raise UserError(cause(error)) from error
    check_batch(pipeline.unet, num_images, pipeline.device, "give a smaller --num-images")
    way = Trajectory(num_images)
    pipeline.set_progress_bar_config(desc=f"{num_images} pictures", disable=not progress)
    begun = time.perf_counter()
    images = pipeline(
        num_images,
        generator=image_generators(seed, range(num_images)),
        num_inference_steps=steps,
        output_type="pt",
        return_dict=False,
        callback_on_step_end=way,
        **(guidance or {}),
    )[0]
    seconds = time.perf_counter() - begun
    scheduler = pipeline.scheduler
    gflops, guide_gflops = drawing_gflops(pipeline, guidance)
    states = [scheduler.process.size(t + 1) for t in scheduler.timesteps.tolist()]
    calls = {size: states.count(size) for size in dict.fromkeys(states)}
    full = (scheduler.image_size, scheduler.image_size)
    files = {name: folder / name for name in ("grid.png", "growth.png", "growth.webp", "enlarged.png")}
    write_file(files["grid.png"], picture_grid([to_picture(2 * image - 1) for image in images]).save)
    write_file(files["growth.png"], way.first(_GROWING).picture().save)
    write_file(files["growth.webp"], way.first(_MOVING).save_animation)
    sheet, error = _enlarged(pipeline, given, steps, seed)
    write_file(files["enlarged.png"], sheet.save)
    return Demo(
        num_images,
        calls,
        gflops + guide_gflops,
        guide_gflops,
        seconds,
        _ONE_LEVEL_CALLS * path_gflops(pipeline.unet, *full),
        _ONE_LEVEL_CALLS * num_images * _full_call_seconds(pipeline),
        *files.values(),
        enlarged_error=error,
    )


def drawing_gflops(pipeline: ScaleSpacePipeline, guidance: Mapping[str, Any] | None = None) -> tuple[float, float]:
    """GFLOPs of a picture: of the model, and of its guide.

    Args:
        pipeline: The model, with its timesteps chosen.
        guidance: As ``show`` takes it.
    """
    scheduler = pipeline.scheduler
    paths = {t: (scheduler.process.size(t + 1), scheduler.target_size(t)) for t in scheduler.timesteps.tolist()}
    own = sum(path_gflops(pipeline.unet, *path) for path in paths.values())
    if not guidance:
        return own, 0.0
    chosen = guidance_given(guidance, ScaleSpacePipeline, pipeline.unet, scheduler)
    return own, sum(path_gflops(chosen.model, *path) for t, path in paths.items() if chosen.guides(scheduler, t))


def _enlarged(pipeline: ScaleSpacePipeline, given: Tensor, steps: int, seed: int) -> tuple[Image.Image, float]:
    """Rows of pictures: small, enlarged by bicubic interpolation, enlarged twice by the model, and as they were."""
    process = pipeline.scheduler.process
    down = process.degradation.operator(0, process.degradation.jumps[:_LEVELS_UP][-1])
    small = down(given)
    twice = small.repeat(2, 1, 1, 1)
    generators = image_generators(seed, range(len(twice)))
    drawn = 2 * upscale(pipeline, twice, generator=generators, num_inference_steps=steps).cpu() - 1
    size = process.size(0)[::-1]
    rows = [to_picture(one).resize(size, Image.Resampling.NEAREST) for one in small]
    rows += [to_picture(one).resize(size, Image.Resampling.BICUBIC) for one in small]
    rows += [to_picture(one) for one in (*drawn, *given)]
    error = 127.5 * (down(drawn) - twice).square().mean().sqrt()
    return picture_grid(rows, columns=len(given)), float(error)


@torch.no_grad()
def _full_call_seconds(pipeline: ScaleSpacePipeline) -> float:
    """Time of one call of the network at the full resolution for one picture, the least of a few."""
    size = pipeline.scheduler.image_size
    channels: int = pipeline.unet.in_channels
    states = torch.zeros(_TIMED_BATCH, channels, *size, device=pipeline.device, dtype=pipeline.unet.dtype)
    spent = []
    for _ in range(_TIMED_CALLS):
        begun = time.perf_counter()
        # Read back, since accelerators compute on after the call has returned.
        pipeline.unet(states, torch.tensor(0, device=pipeline.device), size).sample.flatten()[0].item()
        spent.append(time.perf_counter() - begun)
    return min(spent) / _TIMED_BATCH
