"""Pictures to look at: grids of samples, and states on their way up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scalespace.pipelines.pipeline import ScaleSpacePipeline, check_picture_channels

__all__ = ["Trajectory", "image_generators", "picture_grid", "to_picture", "to_uint8"]

_GAP = 2
_FRAME, _LAST_FRAME = 120, 3000  # milliseconds that a frame of an animation stays


def to_picture(image: Tensor) -> Image.Image:
    """Convert an image in [-1, 1] to a picture: grey of one channel, RGB of three, RGBA of four.

    Args:
        image: Shape (C, H, W). Values outside [-1, 1] are clamped.

    Raises:
        ValueError: If it has another number of channels.
    """
    check_picture_channels(len(image))
    array = to_uint8(image).cpu().permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if len(image) == 1 else array)


def to_uint8(images: Tensor) -> Tensor:
    """Pixels in 0..255 of tensors in [-1, 1], rounded to the nearest level; what lies outside is clamped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def picture_grid(pictures: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Pictures of one size side by side on white, about as many rows as columns unless told.

    Raises:
        ValueError: If there is no picture.
    """
    if not pictures:
        raise ValueError("a grid needs at least one picture")
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    width, height = pictures[0].size
    # Grey pictures make a grey grid. What is transparent is shown on the grid's own white.
    mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
    grid = Image.new(mode, (columns * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP), "white")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        mask = picture if picture.mode == "RGBA" else None
        grid.paste(picture, (column * (width + _GAP), row * (height + _GAP)), mask)
    return grid


def image_generators(seed: int, indices: Sequence[int]) -> list[torch.Generator]:
    """One generator for each picture, keyed by (seed, index), so that no picture depends on its batch.

    Raises:
        ValueError: If the seed is negative or needs more than 32 bits.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed {seed} is not between 0 and {2**32 - 1}")
    # torch's CPU generator looks at 32 bits only: a hash keeps seeds apart, and counting from it the pictures of one seed.
    first = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return [torch.Generator().manual_seed((first + index) % 2**32) for index in indices]


class Trajectory:
    """Collects the states of the first pictures of a batch; give it to a pipeline as ``callback_on_step_end``.

    Args:
        pictures: How many pictures of the batch to follow.
    """

    def __init__(self, pictures: int = 4):
        self.pictures = pictures
        self.states: list[tuple[Tensor, Tensor]] = []
        """(state reached, prediction it was reached with), from noise to clean."""

    def __call__(
        self, pipeline: ScaleSpacePipeline, step: int, timestep: int, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Keep the states of a step."""
        sample, prediction = (tensors[name][: self.pictures].cpu() for name in ("latents", "pred_original_sample"))
        self.states.append((sample, prediction))
        return tensors

    def picture(self, columns: int = 12) -> Image.Image:
        """For each picture a row of states and under it a row of predictions, from the smallest resolution up.

        Every picture is enlarged to the final size without smoothing, so that its own pixels can be seen. All resolutions
        get about the same number of columns, each ending on its last state.
        """
        sizes = list(dict.fromkeys(tuple(state.shape[-2:]) for state, _ in self.states))
        chosen: list[int] = []
        for size in sizes:
            members = [i for i, (state, _) in enumerate(self.states) if tuple(state.shape[-2:]) == size]
            count = min(len(members), max(1, columns // len(sizes)))
            chosen += sorted({members[round(k)] for k in torch.linspace(0, len(members) - 1, count + 1).tolist()[1:]})
        height, width = sizes[-1]
        rows = [
            to_picture(self.states[i][kind][index]).resize((width, height), Image.Resampling.NEAREST)
            for index in range(len(self.states[0][0]))
            for kind in (0, 1)
            for i in chosen
        ]
        return picture_grid(rows, columns=len(chosen))

    def first(self, count: int) -> Trajectory:
        """That of the first ``count`` pictures alone."""
        part = Trajectory(min(count, self.pictures))
        part.states = [(state[:count], prediction[:count]) for state, prediction in self.states]
        return part

    def save_animation(self, file: Path, size: tuple[int, int] | None = None) -> None:
        """Write the predictions of all pictures, side by side, as an animation that ends on the newest ones.

        Args:
            file: File to write. Its ending says of which kind: .webp, .gif or .png.
            size: Height and width to which the pictures are enlarged; None takes those of the newest.
        """
        height, width = size or self.states[-1][1].shape[-2:]
        frames = [
            picture_grid([to_picture(one).resize((width, height), Image.Resampling.NEAREST) for one in prediction])
            for _, prediction in self.states
        ]
        shown = [*[_FRAME] * (len(frames) - 1), _LAST_FRAME]
        frames[0].save(file, save_all=True, append_images=frames[1:], duration=shown, loop=0, lossless=True)
