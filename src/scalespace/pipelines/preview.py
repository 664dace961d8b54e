"""Pictures that can be watched while they are drawn: one file, written anew after every step.

A viewer that follows changes, or a page that loads the picture again, shows at any time what the model expects the pictures of
the batch to be: the predictions side by side, enlarged to the full size without smoothing, so that the pixels of their
level can be seen. The file is replaced whole, so nobody reads half of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from torch import Tensor

from scalespace.errors import UserError
from scalespace.files import write_file
from scalespace.pipelines.pictures import picture_grid, to_picture
from scalespace.pipelines.pipeline import ScaleSpacePipeline

__all__ = ["Preview"]

_PICTURES = 64
_PAUSE = 0.2  # seconds between two files of one level; a quick model would otherwise write more than it draws


class Preview:
    """Writes predictions to a file; give it to a pipeline as ``callback_on_step_end``.

    Args:
        file: PNG file, which is replaced.
        size: Height and width to which pictures are enlarged.
        clock: Seconds since any moment.

    Raises:
        UserError: If the file has another ending.
    """

    def __init__(self, file: Path, size: tuple[int, int], clock: Callable[[], float] = time.monotonic):
        if file.suffix.lower() != ".png":
            raise UserError(f"--preview is {file}; give a name that ends in .png")
        self.file, self.size = file, size
        self.written = 0
        """How many times the file was written."""
        self._clock = clock
        self._last: tuple[tuple[int, ...], float] | None = None

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
        write_file(self.file, lambda file: picture_grid(shown).save(file, compress_level=1))
        self.written += 1
