"""Pictures from a model into a folder, or into one archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scalespace.data.classes import listed
from scalespace.data.left_out import counted
from scalespace.errors import UserError, cause
from scalespace.files import write_file
from scalespace.memory import check_disk, check_memory
from scalespace.networks.flops import call_activations
from scalespace.networks.network import Network
from scalespace.pipelines.drawn_by import DrawnBy
from scalespace.pipelines.guidance import guidance_given
from scalespace.pipelines.pictures import Trajectory, image_generators, to_picture, to_uint8
from scalespace.pipelines.pipeline import ScaleSpacePipeline, StepCallback, check_picture_channels
from scalespace.pipelines.places import Archive, Folder, place_at
from scalespace.pipelines.preview import Preview, preview_at
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.processes import Processes

__all__ = ["SampleFiles", "check_batch", "check_guidance", "class_number", "draw", "sample_to_files", "use_solver"]


@dataclass(frozen=True)
class SampleFiles:
    """What was written.

    Args:
        count: Number of pictures.
        pictures: One PNG for each picture, by its number; none where they are in one archive.
        archive: The archive; None where they are in a folder.
        grid: The first 64 side by side, in a folder.
        trajectory: The first four on their way up, if asked for.
        network_calls: Calls of the network for each batch.
        class_label: Number of the class of all pictures; None where they have none, or the classes came in turn.
        class_name: Name of the class, if the model knows it.
        kept: How many of the pictures were there already, from an earlier command that was stopped or asked for fewer.
        preview: The file in which they could be watched, if asked for and anything had to be drawn.
    """

    count: int
    pictures: tuple[Path, ...]
    archive: Path | None
    grid: Path | None
    trajectory: Path | None
    network_calls: int
    class_label: int | None = None
    class_name: str | None = None
    kept: int = 0
    preview: Path | None = None


def use_solver(pipeline: ScaleSpacePipeline, **options: Any) -> None:
    """Sample by another solver than the one the model was saved with.

    Args:
        pipeline: The model; its scheduler is replaced.
        options: Options of ``ScaleSpaceScheduler``: solver, eta, bridge, timestep_spacing.

    Raises:
        ValueError: If a choice is unknown, or eta is given to a solver that has none.
    """
    solver = options.get("solver", pipeline.scheduler.config.solver)
    if "eta" in options and solver != "ddim":
        raise ValueError(f'eta is of the solver "ddim", and this one is "{solver}"; choose ddim, or leave eta out')
    pipeline.scheduler = ScaleSpaceScheduler.from_config(pipeline.scheduler.config, **options)


def check_batch(network: Network, count: int, device: torch.device | str, lower: str) -> None:
    """Refuse to draw more pictures together than the memory holds.

    Args:
        network: Network of the model.
        count: Number of pictures.
        device: Device that the pictures are drawn on.
        lower: What to lower, as the end of a sentence.

    Raises:
        UserError: If they do not fit.
    """
    check_memory(
        f"drawing {count:,} pictures together", {"the network": count * call_activations(network)}, lower, device
    )


def draw(
    pipeline: ScaleSpacePipeline, numbers: range, steps: int, seed: int, guidance: Mapping[str, Any] | None = None
) -> torch.Tensor:
    """Draw pictures together, of a model without classes.

    Args:
        pipeline: The model, with its solver chosen.
        numbers: Numbers of the pictures; each depends on the seed and its number alone, up to the rounding of the network.
        steps: Sampling steps, as ``ScaleSpaceScheduler.set_timesteps`` takes them.
        seed: Seed of the pictures, 0..2^32 - 1.
        guidance: Arguments guidance_scale, guidance_interval and guidance_model of the model's call; None for no guidance.

    Returns:
        uint8, shape (len(numbers), C, H, W), on the CPU.

    Raises:
        ValueError: If an argument does not fit the model.
    """
    images = pipeline(
        len(numbers),
        generator=image_generators(seed, numbers),
        num_inference_steps=steps,
        output_type="pt",
        return_dict=False,
        **(guidance or {}),
    )[0]
    return to_uint8(2 * images - 1).cpu()


def sample_to_files(
    pipeline: ScaleSpacePipeline,
    output: Path,
    *,
    num_images: int,
    steps: int,
    seed: int = 0,
    batch_size: int = 16,
    class_label: int | str | None = None,
    trajectory: bool = False,
    progress: bool = True,
    upsample: ScaleSpacePipeline | None = None,
    processes: Processes | None = None,
    guidance: Mapping[str, Any] | None = None,
    stop_at_size: tuple[int, int] | None = None,
    preview: Path | None = None,
) -> SampleFiles:
    """Draw pictures and write them as PNG, with a grid, and a picture of the first ones on their way up; or as one archive.

    Picture number i depends on the seed and i alone, up to the rounding of the network, which may differ with the batch size.
    Batches are shared out whole, so that files are the same bytes however many processes draw them. Every file tells what
    drew it. Where pictures of the same model, seed and options are there already, the others are drawn.

    Args:
        pipeline: A trained model.
        output: Folder to write into; it is made if absent, and refused if it holds anything but pictures of this very kind.
            Or, with a name that ends in .npz, an archive as ``Archive`` writes it, for which the same holds.
        num_images: Number of pictures.
        steps: Sampling steps, as ``ScaleSpaceScheduler.set_timesteps`` takes them.
        seed: Seed of the pictures, 0..2^32 - 1.
        batch_size: Number of pictures drawn together.
        class_label: The class of all pictures, its name or its number; where a word is both, it is the name. None with a
            class-conditional model takes the classes in turn.
        trajectory: Whether to write trajectory.png, into a folder.
        progress: Whether to show bars on stderr.
        upsample: The second model of a cascade, which enlarges the pictures of the first.
        processes: Those that share the batches, all with the same arguments; None for this one alone.
        guidance: Arguments guidance_scale, guidance_interval and guidance_model of the model's call; None for no guidance.
        stop_at_size: As the pipeline takes it; not with ``upsample``.
        preview: PNG, GIF or WebP file outside of a folder that shows the pictures on their way (``preview_at``), those of the
            first of several processes.

    Raises:
        UserError: If an argument does not fit the model, the models do not fit each other or the folder is in use.
    """
    processes = processes or Processes()
    for name, value in (("num-images", num_images), ("batch-size", batch_size)):
        if value < 1:
            raise UserError(f"--{name} is {value}; give at least 1")
    label, place = class_number(pipeline, class_label), place_at(output)
    place.check(pipeline.unet.in_channels, trajectory)
    _check_cascade(pipeline, upsample)
    try:
        check_picture_channels(pipeline.unet.in_channels)
        for model in filter(None, (pipeline, upsample)):
            model.scheduler.set_timesteps(steps)
        guided = check_guidance(pipeline, guidance or {})
        calls = sum(len(model.scheduler.timesteps) for model in filter(None, (pipeline, upsample)))
        stopped = {}
        if stop_at_size is not None:
            calls, stopped = pipeline.steps_to(stop_at_size), {"stop-at-size": list(stop_at_size)}
        # Generators of all pictures would fill the memory before the first is drawn, but the seed can be checked.
        image_generators(seed, ())
    except ValueError as error:
        raise UserError(cause(error)) from error
    shown = None
    if preview is not None:
        if preview.resolve().parent == place.folder.resolve():
            raise UserError(f"--preview is {preview}, among the pictures of --output; give a file in another folder")
        shown = preview_at(preview, (upsample or pipeline).scheduler.image_size)
    check_disk(
        f"{num_images:,} pictures", place.folder, num_images, 0, "give a smaller --num-images, or another --output"
    )
    for model in filter(None, (pipeline, upsample)):
        # Guidance by the model itself runs it on twice the pictures.
        copies = 2 if guided and model is pipeline else 1
        check_batch(model.unet, copies * min(batch_size, num_images), model.device, "lower --batch-size")

    def begin() -> tuple[DrawnBy, frozenset[int]]:
        models = {"upsample": upsample, "guidance-model": (guidance or {}).get("guidance_model")}
        facts = {"seed": seed, "steps": steps, "batch-size": batch_size, "class": label, **guided, **stopped}
        drawn_by = DrawnBy.of(pipeline, models, facts)
        return drawn_by, place.found(drawn_by, num_images)

    drawn_by, kept = processes.first(begin)
    options = {**(guidance or {}), "stop_at_size": stop_at_size}
    trajectory_path = place.folder / "trajectory.png" if trajectory else None
    batches = [range(first, min(first + batch_size, num_images)) for first in range(0, num_images, batch_size)]
    # A batch of which a picture is missing is drawn whole, since its size has to do with its rounding.
    due = [numbers for numbers in batches if not kept.issuperset(numbers)]
    if trajectory_path is not None and not trajectory_path.exists() and batches[0] not in due:
        due.insert(0, batches[0])
    for start in range(0, len(due), processes.count):
        if start + processes.rank < len(due):
            numbers = due[start + processes.rank]
            recorder = Trajectory() if trajectory and numbers.start == 0 else None
            bar = f"{numbers.start + 1}-{numbers.stop} of {num_images}" if progress else None
            watchers = [recorder, shown if shown and processes.is_first and shown.shows(start) else None]
            images = _drawn(pipeline, upsample, numbers, steps, seed, label, watchers, bar, options)
            for number, image in zip(numbers, images, strict=True):
                picture = to_picture(2 * image - 1)
                write_file(place.picture(number), lambda file, picture=picture: drawn_by.save(picture, file))
            if recorder is not None and trajectory_path is not None:
                write_file(trajectory_path, recorder.picture().save)
        # One that has failed ends the others before their next batch.
        processes.meet()
    labels = _labels(pipeline, range(num_images), label)
    processes.first(lambda: place.finish(drawn_by, num_images, labels, progress))
    missing = {number for numbers in due for number in numbers}
    return SampleFiles(
        num_images,
        tuple(map(place.picture, range(num_images))) if isinstance(place, Folder) else (),
        place.file if isinstance(place, Archive) else None,
        place.grid if isinstance(place, Folder) else None,
        trajectory_path,
        calls,
        label,
        _class_names(pipeline).get(label),
        num_images - len(missing),
        preview if missing else None,
    )


def _drawn(
    pipeline: ScaleSpacePipeline,
    upsample: ScaleSpacePipeline | None,
    numbers: range,
    steps: int,
    seed: int,
    label: int | None,
    watchers: Sequence[Trajectory | Preview | None],
    bar: str | None,
    options: Mapping[str, Any],
) -> torch.Tensor:
    """Pictures in [0, 1], shape (len(numbers), C, H, W)."""
    generators = image_generators(seed, numbers)
    labels = _labels(pipeline, numbers, label)
    pipeline.set_progress_bar_config(desc=f"pictures {bar}", disable=bar is None)
    images = pipeline(
        len(numbers),
        generator=generators,
        num_inference_steps=steps,
        class_labels=labels,
        output_type="pt",
        return_dict=False,
        callback_on_step_end=_all(watchers),
        **options,
    )[0]
    if upsample is None:
        return images
    upsample.set_progress_bar_config(desc=f"enlarging {bar}", disable=bar is None)
    return upsample(
        len(numbers),
        generator=generators,
        num_inference_steps=steps,
        class_labels=None if upsample.unet.num_classes is None else labels,
        output_type="pt",
        return_dict=False,
        condition=2 * images - 1,
        callback_on_step_end=_all([watcher for watcher in watchers if isinstance(watcher, Preview)]),
    )[0]


def _all(watchers: Sequence[Trajectory | Preview | None]) -> StepCallback | None:
    """One callback for those that are there. None of them changes anything."""
    there = [watcher for watcher in watchers if watcher is not None]

    def tell(
        pipeline: ScaleSpacePipeline, step: int, timestep: int, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        for watcher in there:
            watcher(pipeline, step, timestep, tensors)
        return {}

    return tell if there else None


def check_guidance(pipeline: ScaleSpacePipeline, guidance: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse guidance that a model cannot be given, before anything is drawn.

    Args:
        pipeline: The model, with its timesteps chosen.
        guidance: Arguments guidance_scale, guidance_interval and guidance_model of its call.

    Returns:
        What tells pictures that are guided so from others, by name; empty where nothing is guided.

    Raises:
        ValueError: If it cannot.
    """
    chosen = guidance_given(guidance, ScaleSpacePipeline, pipeline.unet, pipeline.scheduler)
    chosen.check(pipeline.unet, pipeline.unet.num_classes is not None, pipeline.scheduler)
    if chosen.scale == 1:
        return {}
    return {"guidance-scale": chosen.scale, "guidance-interval": chosen.interval and list(chosen.interval)}


def _check_cascade(pipeline: ScaleSpacePipeline, upsample: ScaleSpacePipeline | None) -> None:
    if pipeline.unet.condition_size is not None:
        raise UserError(
            "the model only enlarges small pictures; sample one that draws them, with this one as --upsample"
        )
    if upsample is None:
        return
    if upsample.unet.condition_size != pipeline.scheduler.image_size:
        raise UserError(
            f"--upsample enlarges pictures of height and width {upsample.unet.condition_size}, and the first model draws "
            f"{pipeline.scheduler.image_size}; give a model trained with --network.condition-size of those"
        )
    channels = upsample.unet.in_channels, pipeline.unet.in_channels
    if channels[0] != channels[1]:
        raise UserError(
            f"--upsample enlarges pictures of {counted(channels[0], 'channel')}, and the first model draws "
            f"{channels[1]}; give two models of the same --process.channels"
        )
    theirs = upsample.unet.num_classes
    if theirs not in (None, pipeline.unet.num_classes):
        raise UserError("--upsample is a model of other classes than the first; give two of the same classes")
    names, others = _class_names(pipeline), _class_names(upsample)
    if theirs is not None and names and others and names != others:
        number = next(number for number in names if names[number] != others.get(number))
        raise UserError(
            f"--upsample is a model of other classes than the first: number {number} is {names[number]} there and "
            f"{others.get(number)} here; give two of the same classes"
        )


def class_number(pipeline: ScaleSpacePipeline, class_label: int | str | None) -> int | None:
    """The number of a class.

    Args:
        pipeline: A trained model.
        class_label: A number, or a word: the name of a class and, where there is none of that name, a number.

    Raises:
        UserError: If there is no such class, or the model has no classes.
    """
    classes = pipeline.unet.num_classes
    if class_label is None:
        return None
    if classes is None:
        raise UserError("--class-label was given, but the model has no classes; leave it out")
    if isinstance(class_label, str) and (class_label in pipeline.labels or not class_label.lstrip("-").isdecimal()):
        try:
            return pipeline.get_label_ids(class_label)[0]
        except ValueError as error:
            raise UserError(
                f"--class-label: {cause(error)}; numbers from 0 to {classes - 1} can be given, too"
            ) from error
    number = int(class_label)
    if not 0 <= number < classes:
        names = f": {listed(sorted(pipeline.labels, key=pipeline.labels.__getitem__))}" if pipeline.labels else ""
        raise UserError(f"--class-label is {class_label}; the model has the classes 0 to {classes - 1}{names}")
    return number


def _class_names(pipeline: ScaleSpacePipeline) -> dict[int | None, str]:
    return {number: name for name, number in pipeline.labels.items()}


def _labels(pipeline: ScaleSpacePipeline, numbers: range, label: int | None) -> torch.Tensor | None:
    classes = pipeline.unet.num_classes
    if classes is None:
        return None
    return torch.tensor(numbers) % classes if label is None else torch.full((len(numbers),), label)
