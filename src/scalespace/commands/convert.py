"""``scalespace convert``."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from scalespace.commands.parsing import read, say
from scalespace.effects import Need, Needs
from scalespace.errors import UserError, cause
from scalespace.files import OutputPath, write_directory
from scalespace.reading import path_of
from scalespace.training.configuration import PRESETS, ModelConfig, preset

__all__ = ["Arguments", "run"]

_NAME = re.compile(r"(?<![0-9])([0-9]+)res_([a-z]+)_([0-9]+)levels")
"""What the name of a released file tells: pixels, pictures, levels."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options of the command."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RELEASED.pt")]
    """Released file. With --to released: folder of a model or run, or OWNER/NAME on the Hugging Face Hub."""
    output: Annotated[tyro.conf.Positional[OutputPath], tyro.conf.arg(metavar="DIRECTORY")]
    """New folder for the model. With --to released: the new file."""
    to: Literal["scalespace", "released"] = "scalespace"
    """What to make: a model of this package, or a file that the paper authors' released code loads."""
    preset: str | None = None
    """Preset that the released file is of, which tells its process. None reads it off the name of the file."""
    json: bool = False
    """Print JSON instead of text."""
    quiet: bool = False
    """Show no progress bars."""

    needs: ClassVar[Needs] = {
        "preset": (Need(lambda given: given.to == "scalespace", "with --to released", "give --to scalespace"),),
    }


def run(words: list[str]) -> None:
    """Make a model of a checkpoint that the paper's authors released, or a file for their code of a model.

    The model does what the released code does where that differs from the paper. A file that asks to run code is refused.

    example: scalespace convert ssd_64res_celeba_4levels_ema_0.9999_1000000.pt celeba64-4l

    example: scalespace convert my_ema.pt my-model --preset celeba128-3l

    example: scalespace convert celeba64-4l back.pt --to released
    """
    given = read(Arguments, words, run)
    told = _to_released(given) if given.to == "released" else _to_model(given)
    if given.json:
        say(json.dumps(told))
        return
    for note in told.pop("notes"):
        say(f"note        {note}")
    for name, value in told.items():
        if value is not None:
            say(f"{name:11} {value:,}" if isinstance(value, int) else f"{name:11} {value}")


def _to_model(given: Arguments) -> dict[str, Any]:
    from scalespace.pipelines.released import LayoutError, released_image_size
    from scalespace.pipelines.released_files import load_released, read_released
    from scalespace.training.build import build_scheduler

    path, output = path_of(given.source), path_of(given.output)
    # Of a name that is mistyped nothing else is worth telling.
    released = read_released(path)
    name = given.preset or _named(path)
    model = preset(name)
    if model.process.shifted or model.prediction != "sample":
        paper = [known for known, config in PRESETS.items() if not config.process.shifted]
        raise UserError(f"preset {name} is none that the released code trains; give one of {', '.join(paper)}")
    side, size = released_image_size(released.state), model.process.image_size
    if side is not None and size != (side, side):
        who = f"the name of {path} tells" if given.preset is None else "--preset is"
        raise UserError(
            f"{who} {name}, which has {size[0]}x{size[1]} pixels, and the weights are of {side}x{side}; give the preset of the "
            "weights by --preset"
        )
    try:
        pipeline = load_released(released, build_scheduler(replace(model, released_quirks=True)))
    except LayoutError as error:
        say("\n".join(error.lines()), error=True)
        raise UserError(f"{path}: {cause(error)}") from error
    notes = [*released.notes, *_differences(given, path, name, model, pipeline.unet.config)]
    write_directory(output, lambda folder: pipeline.save_pretrained(folder, facts=released.facts()))
    return {
        "model": str(output),
        "preset": name,
        "step": released.step,
        "parameters": sum(parameter.numel() for parameter in pipeline.unet.parameters()),
        "notes": notes,
    }


def _to_released(given: Arguments) -> dict[str, Any]:
    from scalespace.pipelines.released_files import check_degradation, save_released, write_released
    from scalespace.training.models import degradation_named, open_model

    source, output = path_of(given.source), path_of(given.output)
    # Before it is loaded, since the module of a degradation that cannot be converted need not be trusted.
    check_degradation(degradation_named(source))
    pipeline = open_model(source, lambda line: say(line, error=given.json), not given.quiet)
    content, step = save_released(pipeline)
    write_released(content, output)
    return {
        "file": str(output),
        "step": step,
        "image_size": pipeline.scheduler.image_size[0],
        "num_levels": len(pipeline.scheduler.sizes),
        "notes": [],
    }


def _named(path: Path) -> str:
    """The preset that the name of a released file tells."""
    told = _NAME.search(path.name)
    name = None if told is None else f"{told[2]}{told[1]}-{told[3]}l"
    if name not in PRESETS:
        known = "" if name is None else f" (it would be {name})"
        raise UserError(
            f'the name "{path.name}" tells no preset{known}; name the one that it was trained as by --preset'
        )
    return name


def _differences(given: Arguments, path: Path, name: str, model: ModelConfig, network: Any) -> list[str]:
    """In which the preset is not what the file's name and its weights are, which then hold."""
    notes = []
    told = _NAME.search(path.name)
    if given.preset is not None and told is not None and f"{told[2]}{told[1]}-{told[3]}l" != given.preset:
        notes.append(f"the name of the file tells {told[2]}{told[1]}-{told[3]}l, and --preset {given.preset} was taken")
    for option in ("base_channels", "channel_multipliers", "blocks_per_level", "num_classes", "attention_max_size"):
        found, expected = network[option], getattr(model.network, option)
        if found != expected:
            notes.append(f"the weights have {option} {found} where {name} has {expected}, and the model has theirs")
    return notes
