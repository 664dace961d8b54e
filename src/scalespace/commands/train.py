"""``scalespace train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from scalespace.commands.parsing import Preset, part, read_with_preset, say
from scalespace.launch import launched
from scalespace.training.configuration import TrainConfig

__all__ = ["Arguments", "run"]


@dataclass(frozen=True, kw_only=True)
class Arguments(TrainConfig):
    """The options of the command."""

    preset: Preset = "tiny"
    quiet: bool = False
    """Show no progress bars."""

    def __post_init__(self):
        # Values are checked when the configuration is taken out of this, where an error is not the parser's.
        pass


def run(words: list[str]) -> None:
    """Train a model on a folder or zip of images. The same command again resumes the run.

    example: scalespace train --preset tiny --data photos/ --output-dir runs/photos --max-steps 20000
    """
    given = read_with_preset(Arguments, words, run, data=tyro.MISSING, output_dir=tyro.MISSING)
    config = part(TrainConfig, given)
    from scalespace.training.loop import train

    trained = train(config, progress=not given.quiet, say=say)
    if launched()[0] > 0:
        return
    say(f"model      {trained.model_path}")
    say(f"log        {trained.log_path}")
    say(f"page       {trained.path / 'index.html'}")
    try:
        from scalespace.training.loss_plot import plot_losses

        plot_losses(trained.read_log(), trained.path / "loss.png", f"{Path(config.data).name}, seed {config.seed}")
    except ImportError:
        say("no loss curve: matplotlib is not installed (pip install scale-space-diffusion[plot])")
    else:
        say(f"loss curve {trained.path / 'loss.png'}")
