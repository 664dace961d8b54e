"""A run measured while it is trained: pictures drawn with its averaged weights, against pictures that it does not see.

The same noise is drawn every time, so that the figures follow the weights alone. They are figures at this number of pictures
and of sampling steps, without intervals.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scalespace.errors import UserError, cause
from scalespace.metrics.drawing import Sampling, draw
from scalespace.metrics.evaluate import METRICS, Options, compare
from scalespace.metrics.extractors.choice import Learned, chosen_extractor
from scalespace.metrics.features import FeatureExtractor
from scalespace.metrics.sides import Side, drawn_side, open_pictures
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.sampling import check_batch
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.processes import Processes

__all__ = ["HeldOut"]

_TOGETHER = 16  # pictures
_REHEARSED = 64  # pictures, more than there are neighbours


@dataclass(frozen=True)
class HeldOut:
    """How a run is measured while it is trained.

    Args:
        every: Steps between two measurements.
        data: Folder or zip of pictures that the run is not trained on; they are prepared as training prepares its own.
        images: Number of pictures to draw.
        steps: Number of sampling steps; at most as many as the process has are taken.
        metrics: Some of ``METRICS``.
        features: efficientnet-lite0, for distances in its features; None takes the built-in ones, or Inception where the
            environment names it.

    Raises:
        UserError: If a number is too small, or a metric is unknown.
    """

    every: int
    data: str
    images: int = 1000
    steps: int = 50
    metrics: tuple[str, ...] = ("fid", "kid")
    features: Learned | None = None

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("images", 2), ("steps", 2)):
            if getattr(self, name) < least:
                raise UserError(f"--evaluate-{name} is {getattr(self, name)}; give at least {least}")
        if not self.metrics:
            raise UserError(f"--evaluate-metrics names none; use some of {','.join(METRICS)}")
        for name in self.metrics:
            if name not in METRICS:
                raise UserError(
                    f'--evaluate-metrics names "{name}", which cannot be measured; use some of {",".join(METRICS)}'
                )

    def open(self, model: ScaleSpacePipeline, seed: int, processes: Processes, progress: bool) -> _Measure:
        """Open the pictures, so that what is wrong is found before the first step.

        Args:
            model: What is to be measured, with any weights, on the device that it draws on.
            seed: Seed of the pictures that are drawn.
            processes: Those that train together; the first reads the pictures.
            progress: Whether what takes over two seconds shows a bar on stderr.

        Raises:
            UserError: If the pictures cannot be read or compared, or cannot be drawn.
        """
        if model.unet.condition_size is not None:
            raise UserError(
                "--evaluate-every cannot be used with --network.condition-size, since such a model draws no pictures by "
                "itself; leave --evaluate-every out"
            )
        scheduler: ScaleSpaceScheduler = model.scheduler
        steps = min(self.steps, scheduler.process.timesteps)
        try:
            own: Any = ScaleSpaceScheduler.from_config(scheduler.config)
            own.set_timesteps(steps)
        except ValueError as error:
            raise UserError(f"--evaluate-steps {self.steps} cannot be used: {cause(error)}") from error
        together = min(_TOGETHER, self.images)
        check_batch(model.unet, together, model.device, "lower --network.base-channels")
        sampling = Sampling(self.images, steps, seed, together, device=model.device)
        options = Options(metrics=self.metrics, intervals=False, seed=seed, sampling=sampling)
        measure = _Measure(self.data, options, self.features)
        channels = model.unet.in_channels
        processes.first(lambda: measure.open(scheduler.image_size, channels, progress))
        return measure


class _Measure:
    """The measuring of one run; only the first process has the pictures that are held out."""

    def __init__(self, data: str, options: Options, features: Learned | None):
        self._data, self._options, self._features = data, options, features
        self._reference: Side | None = None
        self._extractor: FeatureExtractor | None = None

    def open(self, size: tuple[int, int], channels: int, progress: bool) -> None:
        """Read the pictures, or what is known of them from an earlier run."""
        options = self._options
        self._extractor = chosen_extractor(
            self._features, None, size=None, resize=options.resize, trust=False, device=options.sampling.device
        )
        self._reference = side = open_pictures(self._data, size, channels, True, progress)
        fewest = min(side.count, options.sampling.num_images)
        if side.count < 2 or side.constant:
            raise UserError(
                f"--evaluate-data {self._data} has no two different pictures to compare with; give more of them"
            )
        if side.grey and channels != 1:
            raise UserError(
                f"all pictures of --evaluate-data {self._data} are grey, and the model draws in colour; give others, or train "
                "with --process.channels 1"
            )
        if "prdc" in (options.metrics or ()) and fewest <= options.neighbours:
            raise UserError(
                f"--evaluate-metrics prdc compares with {options.neighbours} neighbours, and there are {fewest} pictures; "
                "give more, or leave prdc out"
            )
        # All that can be wrong with the pictures or the metrics is met now, and the pictures are measured once and for all.
        noise = torch.Generator().manual_seed(options.seed)
        count = min(options.sampling.num_images, _REHEARSED)
        self.measure(torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=noise), progress)

    def draw(self, model: ScaleSpacePipeline, progress: bool) -> Tensor:
        """Draw the pictures on all processes: uint8, shape (N, 3, H, W), the same on every one."""
        return draw(model, self._options.sampling, progress)

    def measure(self, pictures: Tensor, progress: bool) -> dict[str, float]:
        """Compare pictures with those that are held out, on the first process alone.

        Raises:
            UserError: If a figure cannot be computed of them.
        """
        assert self._reference is not None
        assert self._extractor is not None
        # Weights that have hardly learnt draw grey pictures, and all alike: the figures tell how far that is.
        drawn = replace(drawn_side("this run", pictures), grey=self._reference.grey, constant=False)
        with torch.no_grad():
            found = compare((drawn, self._reference), self._extractor, self._options, progress)
        return {row.key: row.measured.value for row in found.rows}
