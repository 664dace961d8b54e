"""``scalespace bench``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import tyro

from scalespace.commands.parsing import Preset, device_named, part, read_with_preset, say
from scalespace.effects import Need, Needs
from scalespace.errors import UserError
from scalespace.training.configuration import ModelConfig, TrainConfig
from scalespace.training.needs import SEVERAL_LEVELS

__all__ = ["Arguments", "run"]

_TRAIN = Need(lambda given: given.work == "train", "on the drawing of pictures", "time train")
_SAMPLE = Need(lambda given: given.work == "sample", "on training", "time sample")


@dataclass(frozen=True, kw_only=True)
class Arguments(ModelConfig):
    """The options of the command."""

    work: Annotated[tyro.conf.Positional[Literal["train", "sample"]], tyro.conf.arg(metavar="{train,sample}")]
    """What to time: training steps, or the drawing of pictures."""
    preset: Preset = "tiny"
    batch_size: int = 16
    """Number of pictures of a training step, or of pictures drawn together."""
    max_steps: int = 100_000
    """Only with train: number of steps of the training whose time is told."""
    level_sampling: Literal["natural", "constant-compute", "constant-memory"] = "natural"
    """Only with train: batch size by resolution, as scalespace train takes it."""
    micro_batch: int | None = None
    """Only with train: largest number of pictures that run at once. None sets no limit."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Only with train: precision of the network's arithmetic. auto is bf16 if the hardware computes it."""
    gradient_checkpointing: bool = False
    """Only with train: recompute activations in the backward pass, which takes less memory and more time."""
    steps: int = 50
    """Only with sample: number of sampling steps, as scalespace sample takes it."""
    device: str = "auto"
    """Only with sample: device to run on (cpu, cuda, mps and so on). auto takes an accelerator if there is one."""
    seconds: float = 20.0
    """Time to measure for. Every path is measured at least three times."""
    json: bool = False
    """Print JSON instead of text."""
    quiet: bool = False
    """Show no progress bar."""

    needs: ClassVar[Needs] = {
        **ModelConfig.needs,
        "max_steps": (_TRAIN,),
        "level_sampling": (_TRAIN, SEVERAL_LEVELS),
        "micro_batch": (_TRAIN,),
        "mixed_precision": (_TRAIN,),
        "gradient_checkpointing": (_TRAIN,),
        "steps": (_SAMPLE,),
        "device": (_SAMPLE,),
    }


def run(words: list[str]) -> None:
    """Time a model on this machine, path by path: pictures a second, GFLOP/s beside those of a matrix product, memory.

    Nothing is read or written: pictures and weights are random. Measure on a machine that does nothing else.

    example: scalespace bench train --preset shifted64-4l --batch-size 16 --max-steps 100000

    example: scalespace bench sample --preset tiny --steps 50 --json
    """
    given = read_with_preset(Arguments, words, run, work=tyro.MISSING)
    if given.batch_size < 1:
        raise UserError(f"--batch-size is {given.batch_size}; give at least 1")
    if not 0 <= given.seconds <= 86400:
        raise UserError(f"--seconds is {given.seconds}; give a time between 0 and a day, 86400")
    if given.process.awaits_data:
        raise UserError(
            'the resolution schedule "auto" reads its change points off pictures, and bench reads none; give those that '
            "scalespace plan --data prints as --process.change-points"
        )
    from scalespace.planning.timing import measure_sampling, measure_training
    from scalespace.reports.provenance import provenance, typed
    from scalespace.training.start.precision import with_precision

    model = part(ModelConfig, given)
    if given.work == "train":
        names = (
            "batch_size",
            "max_steps",
            "level_sampling",
            "micro_batch",
            "mixed_precision",
            "gradient_checkpointing",
        )
        options = {name: getattr(given, name) for name in names}
        config = TrainConfig(**vars(model), data="", output_dir="", sample_every=0, **options)
        speed = measure_training(with_precision(config, lambda _: None), given.seconds, not given.quiet)
    else:
        device = device_named(given.device)
        speed = measure_sampling(model, given.batch_size, given.steps, device, given.seconds, not given.quiet)
    source = provenance(typed("scalespace bench", words), 0)
    say(json.dumps(speed.as_dict() | {"source": source.as_dict()}, indent=2) if given.json else speed.as_text())
