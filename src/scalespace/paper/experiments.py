"""Experiments of one scale on one set of pictures. Every model is trained, drawn from and compared only once.

    identity.json                    scale, seed, pictures and features of these experiments
    training.zip, heldout.zip        the pictures at one size
    reference.safetensors            features, or their moments, of the pictures that drawn ones are compared with
    ARM/run/                         the training run of a model
    ARM/SAMPLER/grid.png             the first pictures drawn
    ARM/SAMPLER/0000250.safetensors  features of a batch of drawn pictures that starts at number 250, and its seconds

What is in the folder is not computed again. So tables share models, and a command that was stopped continues where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

import scalespace
from scalespace.data.images import ImageDataset, open_images
from scalespace.data.prepared_sets import write_pictures
from scalespace.errors import UserError, cause, printable
from scalespace.files import write_file
from scalespace.metrics.features import FeatureExtractor, extract
from scalespace.metrics.frechet_distance import Moments, frechet
from scalespace.metrics.resampling import Measurement
from scalespace.paper.data import hold_out
from scalespace.paper.scale import Arm, Sampler, Scale
from scalespace.pipelines.pictures import picture_grid, to_picture
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.sampling import draw, use_solver
from scalespace.pipelines.saving import load_pipeline
from scalespace.reading import read_json, reading
from scalespace.reports.progress import progress_bar
from scalespace.reports.table import write_text
from scalespace.training.loop import train
from scalespace.training.run_directory import RunDirectory

__all__ = ["Drawn", "Experiments", "training_hours"]

_Chosen = tuple[ImageDataset, tuple[int, ...]]
"""A data set, and the indices of the chosen pictures."""

_DAMAGE = (SafetensorError, ValueError, TypeError, LookupError)
_BATCH = 256
_GRID_PICTURES = 64


@dataclass(frozen=True)
class Drawn:
    """The pictures that were drawn from a model, as features.

    Args:
        features: Features of the pictures, shape (N, d).
        calls: Number of network calls for each picture.
        seconds: Mean seconds per picture, when they are drawn in batches.
    """

    features: Tensor
    calls: int
    seconds: float


class Experiments:
    """Trains models, draws pictures and compares them, and keeps all results in a folder.

    Args:
        scale: Settings of all tables.
        pictures: Folder, zip or synthetic source of pictures.
        folder: Folder of the results. It is made if it does not exist.
        extractor: Computes the features that pictures are compared by.
        heldout: Pictures to compare with, if the scale compares with held-out ones. None holds some of ``pictures`` out.
        seed: Seed of the held-out split, of every training and of the drawn pictures.
        device: Device that pictures are drawn on. Training chooses its device itself.
        progress: Whether to show progress bars on stderr.

    Raises:
        UserError: If the pictures cannot be read or are too few, or the folder holds other experiments.
    """

    def __init__(
        self,
        scale: Scale,
        pictures: str,
        folder: Path,
        extractor: FeatureExtractor,
        *,
        heldout: str | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        progress: bool = True,
    ):
        self.scale, self.folder, self.extractor, self.seed = scale, folder, extractor, seed
        self.pictures = pictures
        self.size = (scale.image_size, scale.image_size)
        self._device, self._progress = torch.device(device), progress
        self._training, self._heldout = self._split(pictures, heldout)
        identity = {
            "version": scalespace.__version__,
            "scale": asdict(scale),
            "seed": seed,
            "pictures": _fingerprint(*self._training),
            "held-out pictures": None if self._heldout is None else _fingerprint(*self._heldout),
            "features": extractor.mode.as_dict(),
        }
        self._check_identity(json.loads(json.dumps(identity)))

    @property
    def device_name(self) -> str:
        """The device that hours and seconds are measured on, in words."""
        if self._device.type == "cuda":
            return torch.cuda.get_device_name(self._device)
        return f"{self._device.type} with {torch.get_num_threads()} of {os.cpu_count()} cores"

    @property
    def compared(self) -> str:
        """How many pictures are compared with how many, in words."""
        which = "held-out" if self._heldout is not None else "training"
        count = len((self._heldout or self._training)[1])
        return f"{self.scale.samples:,} drawn pictures against {count:,} {which} ones"

    def run(self, arm: Arm) -> RunDirectory:
        """The finished training run of a model. It is trained first if it has not been."""
        config = replace(
            arm.config,
            data=str(self.folder / "training.zip"),
            output_dir=str(self.folder / arm.name / "run"),
            seed=self.seed,
        )
        # A run has its model when it is finished, and the folder's identity tells that it is the same run.
        if (Path(config.output_dir) / "model").exists():
            return RunDirectory(config, None)
        self._prepare("training", *self._training)
        self._say(f"training {arm.name}, {config.max_steps:,} steps")
        return train(config, self._progress, self._say)

    def pipeline(self, arm: Arm, sampler: Sampler) -> ScaleSpacePipeline:
        """The trained model, set to the given sampler."""
        pipeline = load_pipeline(self.run(arm).model_path)
        use_solver(pipeline, **sampler.options)
        return pipeline.to(self._device)

    def drawn(self, arm: Arm, sampler: Sampler) -> Drawn:
        """Pictures that a sampler draws from a model. Batches that are in the folder already are read."""
        folder = self.folder / arm.name / sampler.name
        count, size = self.scale.samples, self.scale.draw_batch
        batches = [range(first, min(first + size, count)) for first in range(0, count, size)]
        files = [folder / f"{numbers.start:07d}.safetensors" for numbers in batches]
        missing = [(numbers, file) for numbers, file in zip(batches, files, strict=True) if not file.exists()]
        pipeline = self.pipeline(arm, sampler) if missing else None
        for numbers, file in missing:
            assert pipeline is not None
            pipeline.set_progress_bar_config(
                desc=f"{arm.name}, {sampler.name}: pictures {numbers.start + 1}-{numbers.stop} of {count}",
                disable=not self._progress,
                leave=False,
            )
            started = time.perf_counter()
            pictures = draw(pipeline, numbers, sampler.steps, self.seed)
            seconds = time.perf_counter() - started
            if numbers.start == 0:
                shown = [to_picture(picture / 127.5 - 1) for picture in pictures[:_GRID_PICTURES]]
                write_file(folder / "grid.png", picture_grid(shown).save)
            told = {"seconds": str(seconds), "calls": str(len(pipeline.scheduler.timesteps))}
            _save(file, {"features": extract(self.extractor, pictures)}, told)
        parts, seconds, calls = [], 0.0, 0
        for file in files:
            with (
                reading(file, "delete it to draw its pictures again", *_DAMAGE),
                safe_open(file, framework="pt") as kept,
            ):
                parts.append(kept.get_tensor("features"))
                seconds += float(kept.metadata()["seconds"])
                calls = int(kept.metadata()["calls"])
        return Drawn(torch.cat(parts), calls, seconds / count)

    def distance(self, arm: Arm, sampler: Sampler) -> Measurement:
        """Frechet distance between pictures drawn from a model and the reference pictures."""
        return frechet(self.drawn(arm, sampler).features, self.reference)

    def floor(self) -> Measurement | None:
        """Frechet distance between as many training pictures and the held-out ones. None if nothing is held out."""
        if self._heldout is None:
            return None
        path = self._prepare("training", *self._training)
        features = torch.cat(list(self._features_of(path, self.scale.samples)))
        return frechet(features, self.reference)

    def hours(self, arm: Arm) -> float:
        """Hours that a model was trained for."""
        return training_hours(self.run(arm).read_log(), arm.config.batch_size)

    def latency(self, arm: Arm, sampler: Sampler) -> float:
        """Median seconds for one picture that is drawn alone. It is measured at every call."""
        pipeline = self.pipeline(arm, sampler)
        pipeline.set_progress_bar_config(disable=True)
        seconds = []
        # The first one warms up and does not count.
        bar = progress_bar(range(self.scale.timed_pictures + 1), f"timing {arm.name}", "pictures", self._progress)
        for number in bar:
            started = time.perf_counter()
            draw(pipeline, range(number, number + 1), sampler.steps, self.seed)
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds[1:])

    @cached_property
    def reference(self) -> Tensor | Moments:
        """Features of the held-out pictures, or the moments of the features of all training pictures."""
        file = self.folder / "reference.safetensors"
        if not file.exists():
            if self._heldout is not None:
                path = self._prepare("heldout", *self._heldout)
                _save(file, {"features": torch.cat(list(self._features_of(path)))})
            else:
                moments = _moments(self._features_of(self._prepare("training", *self._training)))
                count = torch.tensor(moments.count)
                _save(file, {"mean": moments.mean, "covariance": moments.covariance, "count": count})
        with reading(file, "delete it to measure the reference again", *_DAMAGE):
            kept = load_file(file)
            if "features" in kept:
                return kept["features"]
            return Moments(kept["mean"], kept["covariance"], int(kept["count"]))

    def _split(self, pictures: str, heldout: str | None) -> tuple[_Chosen, _Chosen | None]:
        # It decodes nothing yet. What the paper enlarges, we do.
        data = open_images(pictures, self.size, cache_bytes=0, may_enlarge=self.scale.reference == "training")
        everything = (data, tuple(range(len(data))))
        if self.scale.reference == "training":
            return everything, None
        if heldout is not None:
            other = open_images(heldout, self.size, cache_bytes=0)
            if len(other) < self.scale.heldout_least:
                raise UserError(
                    f"{heldout} holds {len(other)} pictures; give at least {self.scale.heldout_least} to compare with"
                )
            return everything, (other, tuple(range(len(other))))
        scale = self.scale
        try:
            training, held = hold_out(
                len(data), scale.heldout_share, scale.heldout_least, scale.heldout_most, self.seed
            )
        except ValueError as error:
            raise UserError(f"{pictures} holds {cause(error)}") from error
        return (data, training), (data, held)

    def _check_identity(self, identity: dict[str, Any]) -> None:
        file = self.folder / "identity.json"
        if not file.exists():
            write_text(file, json.dumps(identity, indent=2))
            return
        old = read_json(file, "give another --output")
        different = [name for name in identity if old.get(name) != identity[name]]
        if different:
            raise UserError(
                f"{self.folder} holds experiments of another kind (different: {', '.join(different)}); give another --output"
            )

    def _prepare(self, name: str, data: ImageDataset, chosen: tuple[int, ...]) -> Path:
        path = self.folder / f"{name}.zip"
        if not path.exists():
            left_out = len(chosen) - write_pictures(data, chosen, path, self._progress)
            if left_out:
                names = {data.names[number] for number in chosen}
                named = "; ".join(f"{bad.name}: {bad.reason}" for bad in data.bad if bad.name in names)
                self._say(f"left out {left_out} pictures that cannot be decoded: {named}")
        return path

    def _features_of(self, path: Path, most: int | None = None) -> Iterator[Tensor]:
        """Features of the pictures in a zip, batch by batch. ``most`` takes that many evenly spaced pictures."""
        data = open_images(str(path), self.size, cache_bytes=0)
        count = len(data) if most is None else min(most, len(data))
        numbers = torch.arange(count) * len(data) // count
        bar = progress_bar(numbers.split(_BATCH), f"features of {path.stem} pictures", "batches", self._progress)
        for chosen in bar:
            yield extract(self.extractor, data.batch(chosen)[0])

    def _say(self, line: str) -> None:
        if self._progress:
            tqdm.write(printable(line), file=sys.stderr)


def training_hours(log: Iterable[dict[str, Any]], batch_size: int) -> float:
    """Hours that a training run on one device took, computed from its log. Time while it was stopped does not count."""
    seconds, last = 0.0, 0
    for record in log:
        pace = record.get("pictures_per_second")
        # Earlier versions rounded a slow pace to nothing.
        if isinstance(pace, int | float) and pace > 0:
            seconds += (record["step"] - last) * batch_size / pace
        last = record["step"]
    return seconds / 3600


def _moments(parts: Iterable[Tensor]) -> Moments:
    """Mean and covariance of features that come batch by batch (Chan, Golub and LeVeque 1979)."""
    count, mean, scatter = 0, torch.zeros(()), torch.zeros(())
    for part in parts:
        features = part.double()
        own, number = features.mean(0), len(features)
        centred, apart = features - own, own - mean
        total = count + number
        scatter = scatter + centred.mT @ centred + apart.outer(apart) * (count * number / total)
        mean = mean + apart * (number / total)
        count = total
    return Moments(mean, scatter / (count - 1), count)


def _fingerprint(data: ImageDataset, chosen: tuple[int, ...]) -> str:
    return hashlib.sha256(f"{data.fingerprint} {chosen!r}".encode()).hexdigest()


def _save(path: Path, tensors: dict[str, Tensor], told: dict[str, str] | None = None) -> None:
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_file(path, lambda file: save_file(whole, file, told))
