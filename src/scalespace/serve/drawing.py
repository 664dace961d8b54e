"""Drawing that can be watched: after every step the picture as the model expects it, at the size that it has by then."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

import scalespace
from scalespace.pipelines.pictures import image_generators, to_picture
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.serve.offer import Wish

__all__ = ["Stage", "Watcher", "draw", "enlarge", "vary"]


@dataclass(frozen=True)
class Stage:
    """Pictures on their way, or finished ones.

    Args:
        step: Number of steps that were taken.
        steps: Number of steps of the whole chain.
        size: Height and width of the pictures.
        pictures: One PNG file for each picture.
        last: Whether these are what was asked for.
    """

    step: int
    steps: int
    size: tuple[int, int]
    pictures: tuple[bytes, ...]
    last: bool = False


Watcher = Callable[[Callable[[], Stage], tuple[int, int]], bool]
"""Is told of every step, as a function that makes its stage, and the size; returns whether to go on. Not every stage is worth
the time that its files take."""


def draw(
    pipeline: ScaleSpacePipeline, wish: Wish, watch: Watcher, guidance: Mapping[str, Any] | None = None
) -> Stage | None:
    """Draw pictures from noise.

    Args:
        pipeline: The model, which stays as it is.
        wish: What to draw. Pictures are those that ``scalespace sample`` draws with the same seed.
        watch: Is told of every step.
        guidance: Arguments guidance_interval and guidance_model of the model's call, if it has a guide.

    Returns:
        The finished pictures: at the full resolution, or the last prediction at the level to stop at. None if the watcher
        wanted no more.

    Raises:
        ValueError: If the wish does not fit the model.
    """
    own = _own(pipeline, wish.solver)
    stopped = False
    reached: Tensor | None = None

    def after_step(
        model: ScaleSpacePipeline, step: int, timestep: int, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        nonlocal stopped, reached
        prediction = tensors["pred_original_sample"]
        size = _size(prediction)
        if size == wish.size:
            reached = prediction
        timesteps = model.scheduler.timesteps.tolist()
        stopped = not watch(lambda: _stage(prediction, step + 1, len(timesteps)), size)
        following = timesteps[step + 1 : step + 2]
        leaves = size == wish.size and any(model.scheduler.target_size(one) != size for one in following)
        if stopped or leaves:
            model._interrupt = True
        return {}

    images: Any = own(
        wish.pictures,
        generator=image_generators(wish.seed, range(wish.pictures)),
        num_inference_steps=wish.steps,
        class_labels=wish.class_label,
        output_type="latent",
        return_dict=False,
        callback_on_step_end=after_step,
        **{**(guidance if guidance and wish.guidance != 1 else {}), "guidance_scale": wish.guidance},
    )[0]
    if stopped:
        return None
    found = images if wish.size == own.scheduler.image_size else reached
    if found is None:
        raise ValueError(f"no step ends at {wish.size[0]}x{wish.size[1]} pixels; stop at another level")
    return _stage(found, own.num_timesteps, own.num_timesteps, last=True)


def enlarge(pipeline: ScaleSpacePipeline, small: Tensor, wish: Wish, watch: Watcher) -> Stage | None:
    """Draw large pictures of which a small one is given; several of them are variations.

    Args:
        pipeline: The model, which stays as it is.
        small: The small picture in [-1, 1], shape (1, C, *wish.size).
        wish: What to draw.
        watch: Is told of the small picture, before the first step, and of every step.

    Returns:
        The finished pictures; None if the watcher wanted no more.

    Raises:
        ValueError: If the wish does not fit the model.
    """
    return _of_picture(pipeline, small, wish, watch, scalespace.upscale)


def vary(pipeline: ScaleSpacePipeline, picture: Tensor, wish: Wish, watch: Watcher) -> Stage | None:
    """Draw variations of a picture; arguments and errors as ``enlarge``, with a picture of the full size."""
    return _of_picture(pipeline, picture, wish, watch, functools.partial(scalespace.vary, strength=wish.strength))


def _of_picture(
    pipeline: ScaleSpacePipeline, given: Tensor, wish: Wish, watch: Watcher, task: Callable[..., Tensor]
) -> Stage | None:
    own = _own(pipeline, wish.solver)
    if not watch(lambda: _stage(given, 0, wish.steps), _size(given)):
        return None
    stopped, taken = False, 0

    def after_step(
        model: ScaleSpacePipeline, step: int, timestep: int, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        nonlocal stopped, taken
        prediction, taken = tensors["pred_original_sample"], model.num_timesteps
        stopped = not watch(lambda: _stage(prediction, step + 1, taken), _size(prediction))
        if stopped:
            model._interrupt = True
        return {}

    images = task(
        own,
        given.expand(wish.pictures, -1, -1, -1),
        generator=image_generators(wish.seed, range(wish.pictures)),
        num_inference_steps=wish.steps,
        class_labels=wish.class_label,
        after_step=after_step,
    )
    return None if stopped else _stage(2 * images - 1, max(1, taken), max(1, taken), last=True)


def _own(pipeline: ScaleSpacePipeline, solver: str) -> ScaleSpacePipeline:
    """The same network with a scheduler that nobody else uses."""
    scheduler: Any = ScaleSpaceScheduler.from_config(pipeline.scheduler.config, solver=solver)
    own = ScaleSpacePipeline(pipeline.unet, scheduler)
    own.set_progress_bar_config(disable=True)
    return own


def _stage(pictures: Tensor, step: int, steps: int, last: bool = False) -> Stage:
    return Stage(step, steps, _size(pictures), tuple(_png(picture, last) for picture in pictures), last)


def _size(pictures: Tensor) -> tuple[int, int]:
    return pictures.shape[-2], pictures.shape[-1]


def _png(picture: Tensor, last: bool) -> bytes:
    file = io.BytesIO()
    # Only what is kept is worth the time of a small file.
    to_picture(picture).save(file, "PNG", compress_level=6 if last else 1)
    return file.getvalue()
