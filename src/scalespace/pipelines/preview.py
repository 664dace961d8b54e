"""Pictures that can be watched while they are drawn: one file, written anew as they grow.

Either it is a still picture, after every step: what the model expects the pictures of the batch to be, side by side. Or it is
an animation of the first pictures, at the end of every level: all that was expected so far, one after the other. Pictures are
enlarged to the full size without smoothing, so that the pixels of their level can be seen. The file is replaced whole, so that
nobody reads half of it, and a viewer that follows changes, or a page that loads it again, shows the newest.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from torch import Tensor

from scalespace.errors import UserError
from scalespace.files import write_file
from scalespace.pipelines.pictures import Trajectory, picture_grid, to_picture
from scalespace.pipelines.pipeline import ScaleSpacePipeline

__all__ = ["Animation", "Preview", "Still", "preview_at"]

_PICTURES = 64
_MOVING = 16  # pictures of an animation
_PAUSE = 0.2  # seconds between two files of one level; a quick model would otherwise write more than it draws


def preview_at(file: Path, size: tuple[int, int]) -> Preview:
    """The preview of the kind that the ending of the file says.

    Args:
        file: File that ends in .png, .gif or .webp, which is replaced.
        size: Height and width to which pictures are enlarged.

    Raises:
        UserError: If the file has another ending.
    """
    kinds: dict[str, type[Preview]] = {".png": Still, ".gif": Animation, ".webp": Animation}
    kind = kinds.get(file.suffix.lower())
    if kind is None:
        raise UserError(f"--preview is {file}; give a name that ends in .png, or for an animation in .gif or .webp")
    return kind(file, size)


class Preview(ABC):
    """Abstract: shows predictions in a file; give it to a pipeline as ``callback_on_step_end``.

    Args:
        file: File, which is replaced.
        size: Height and width to which pictures are enlarged.
    """

    def __init__(self, file: Path, size: tuple[int, int]):
        self.file, self.size = file, size
        self.written = 0
        """How many times the file was written."""

    @abstractmethod
    def shows(self, batch: int) -> bool:
        """Whether a batch is shown.

        Args:
            batch: Its number among those that are drawn now, from 0.
        """

    @abstractmethod
    def __call__(
        self, pipeline: ScaleSpacePipeline, step: int, timestep: int, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Show the prediction of a step, if it is time to."""

    def _write(self, save: Callable[[Path], None]) -> None:
        write_file(self.file, save)
        self.written += 1


class Still(Preview):
    """A PNG file of the batch that is drawn now.

    Args:
        file: PNG file, which is replaced.
        size: Height and width to which pictures are enlarged.
        clock: Seconds since any moment.
    """

    def __init__(self, file: Path, size: tuple[int, int], clock: Callable[[], float] = time.monotonic):
        super().__init__(file, size)
        self._clock = clock
        self._last: tuple[tuple[int, ...], float] | None = None

    def shows(self, batch: int) -> bool:
        return True

    def __call__(
        self, pipeline: ScaleSpacePipeline, step: int, timestep: int, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Show the predictions of a step, if a level begins, a chain ends, or the last file is not of just now."""
        prediction = tensors["pred_original_sample"]
        size, now = tuple(prediction.shape[-2:]), self._clock()
        last = step + 1 == pipeline.num_timesteps
        if last or self._last is None or self._last[0] != size or now - self._last[1] >= _PAUSE:
            self._last = size, now
            self.show(prediction)
        return {}

    def show(self, pictures: Tensor) -> None:
        """Write pictures in [-1, 1], shape (B, C, h, w).

        Raises:
            UserError: If the file cannot be written.
        """
        height, width = self.size
        shown = [
            to_picture(picture).resize((width, height), Image.Resampling.NEAREST)
            for picture in pictures[:_PICTURES].cpu()
        ]
        # What is looked at for a moment is not worth the time of a small file.
        self._write(lambda file: picture_grid(shown).save(file, compress_level=1))


class Animation(Preview):
    """A GIF or WebP file of how the first 16 pictures of the first batch grow, up to the end of their newest level.

    Args:
        file: File that ends in .gif or .webp, which is replaced.
        size: Height and width to which pictures are enlarged.
    """

    def __init__(self, file: Path, size: tuple[int, int]):
        super().__init__(file, size)
        self._way = Trajectory(_MOVING)

    def shows(self, batch: int) -> bool:
        return batch == 0

    def __call__(
        self, pipeline: ScaleSpacePipeline, step: int, timestep: int, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        prediction = tensors["pred_original_sample"]
        states = self._way.states
        if states and states[-1][1].shape[-2:] != prediction.shape[-2:]:
            self._show()
        self._way(pipeline, step, timestep, tensors)
        if step + 1 == pipeline.num_timesteps:
            self._show()
        return {}

    def _show(self) -> None:
        self._write(lambda file: self._way.save_animation(file, self.size))
