"""Pictures from a model into a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from scalespace.data.left_out import counted
from scalespace.errors import UserError, cause
from scalespace.files import write_file
from scalespace.memory import check_disk, check_memory
from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.networks.flops import call_activations
from scalespace.pipelines.pictures import Trajectory, image_generators, picture_grid, to_picture, to_uint8
from scalespace.pipelines.pipeline import ScaleSpacePipeline, check_picture_channels
from scalespace.pipelines.scheduler import ScaleSpaceScheduler

__all__ = ["SampleFiles", "check_batch", "class_number", "draw", "sample_to_folder", "use_solver"]

_GRID_PICTURES = 64


@dataclass(frozen=True)
class SampleFiles:
    """What was written.

    Args:
        pictures: One PNG for each picture, by its number.
        grid: The first 64 side by side.
        trajectory: The first four on their way up, if asked for.
        network_calls: Calls of the network for each batch.
        class_label: Number of the class of all pictures; None where they have none, or the classes came in turn.
        class_name: Name of the class, if the model knows it.
    """

    pictures: tuple[Path, ...]
    grid: Path
    trajectory: Path | None
    network_calls: int
    class_label: int | None = None
    class_name: str | None = None


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


def check_batch(network: FlexiUNet, count: int, device: torch.device | str, lower: str) -> None:
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


def draw(pipeline: ScaleSpacePipeline, numbers: range, steps: int, seed: int) -> torch.Tensor:
    """Draw pictures together, of a model without classes.

    Args:
        pipeline: The model, with its solver chosen.
        numbers: Numbers of the pictures; each depends on the seed and its number alone, up to the rounding of the network.
        steps: Sampling steps, as ``ScaleSpaceScheduler.set_timesteps`` takes them.
        seed: Seed of the pictures, 0..2^32 - 1.

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
    )[0]
    return to_uint8(2 * images - 1).cpu()


def sample_to_folder(
    pipeline: ScaleSpacePipeline,
    folder: Path,
    *,
    num_images: int,
    steps: int,
    seed: int = 0,
    batch_size: int = 16,
    class_label: int | str | None = None,
    trajectory: bool = False,
    progress: bool = True,
    upsample: ScaleSpacePipeline | None = None,
) -> SampleFiles:
    """Draw pictures and write them as PNG, with a grid, and a picture of the first ones on their way up.

    Picture number i depends on the seed and i alone, up to the rounding of the network, which may differ with the batch size.

    Args:
        pipeline: A trained model.
        folder: Folder to write into; it is made if absent, and refused unless empty.
        num_images: Number of pictures.
        steps: Sampling steps, as ``ScaleSpaceScheduler.set_timesteps`` takes them.
        seed: Seed of the pictures, 0..2^32 - 1.
        batch_size: Number of pictures drawn together.
        class_label: The class of all pictures, its name or its number; where a word is both, it is the name. None with a
            class-conditional model takes the classes in turn.
        trajectory: Whether to write trajectory.png.
        progress: Whether to show bars on stderr.
        upsample: The second model of a cascade, which enlarges the pictures of the first.

    Raises:
        UserError: If an argument does not fit the model, the models do not fit each other or the folder is in use.
    """
    for name, value in (("num-images", num_images), ("batch-size", batch_size)):
        if value < 1:
            raise UserError(f"--{name} is {value}; give at least 1")
    label = class_number(pipeline, class_label)
    _check_cascade(pipeline, upsample)
    try:
        check_picture_channels(pipeline.unet.config.in_channels)
        for model in filter(None, (pipeline, upsample)):
            model.scheduler.set_timesteps(steps)
        # Generators of all pictures would fill the memory before the first is drawn, but the seed can be checked.
        image_generators(seed, ())
    except ValueError as error:
        raise UserError(cause(error)) from error
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; give a new one with --output")
    check_disk(f"{num_images:,} pictures", folder, num_images, 0, "give a smaller --num-images, or another --output")
    for model in filter(None, (pipeline, upsample)):
        check_batch(model.unet, min(batch_size, num_images), model.device, "lower --batch-size")
    folder.mkdir(parents=True, exist_ok=True)

    paths: list[Path] = []
    recorder = Trajectory() if trajectory else None
    for first in range(0, num_images, batch_size):
        last = min(first + batch_size, num_images)
        generators = image_generators(seed, range(first, last))
        labels = _labels(pipeline, range(first, last), label)
        pipeline.set_progress_bar_config(desc=f"pictures {first + 1}-{last} of {num_images}", disable=not progress)
        images = pipeline(
            last - first,
            generator=generators,
            num_inference_steps=steps,
            class_labels=labels,
            output_type="pt",
            return_dict=False,
            callback_on_step_end=recorder if first == 0 else None,
        )[0]
        if upsample is not None:
            upsample.set_progress_bar_config(desc=f"enlarging {first + 1}-{last} of {num_images}", disable=not progress)
            images = upsample(
                last - first,
                generator=generators,
                num_inference_steps=steps,
                class_labels=None if upsample.unet.config.num_classes is None else labels,
                output_type="pt",
                return_dict=False,
                condition=2 * images - 1,
            )[0]
        for number, image in enumerate(images, start=first):
            paths.append(folder / f"{number:06d}.png")
            write_file(paths[-1], to_picture(2 * image - 1).save)
    grid = folder / "grid.png"
    write_file(grid, picture_grid([Image.open(path) for path in paths[:_GRID_PICTURES]]).save)
    trajectory_path = None
    if recorder is not None:
        trajectory_path = folder / "trajectory.png"
        write_file(trajectory_path, recorder.picture().save)
    calls = sum(len(model.scheduler.timesteps) for model in filter(None, (pipeline, upsample)))
    return SampleFiles(tuple(paths), grid, trajectory_path, calls, label, _class_names(pipeline).get(label))


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
    channels = upsample.unet.config.in_channels, pipeline.unet.config.in_channels
    if channels[0] != channels[1]:
        raise UserError(
            f"--upsample enlarges pictures of {counted(channels[0], 'channel')}, and the first model draws "
            f"{channels[1]}; give two models of the same --process.channels"
        )
    theirs = upsample.unet.config.num_classes
    if theirs not in (None, pipeline.unet.config.num_classes):
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
    classes = pipeline.unet.config.num_classes
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
        raise UserError(f"--class-label is {class_label}; the model has the classes 0 to {classes - 1}")
    return number


def _class_names(pipeline: ScaleSpacePipeline) -> dict[int | None, str]:
    return {number: name for name, number in pipeline.labels.items()}


def _labels(pipeline: ScaleSpacePipeline, numbers: range, label: int | None) -> torch.Tensor | None:
    classes = pipeline.unet.config.num_classes
    if classes is None:
        return None
    return torch.tensor(numbers) % classes if label is None else torch.full((len(numbers),), label)
