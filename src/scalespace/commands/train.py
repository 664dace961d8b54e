"""``scalespace train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import tyro

from scalespace.commands.options.loading import trusted
from scalespace.commands.parsing import Preset, metrics_named, part, read_with_preset, say, word_after
from scalespace.effects import Need, Needs
from scalespace.launch import launched
from scalespace.training.changes import field_names
from scalespace.training.configuration import ModelConfig, TrainConfig

__all__ = ["Arguments", "run"]


_EVALUATED = Need(
    lambda given: given.evaluate_every > 0 and given.evaluate_data is not None,
    "where the run is not measured",
    "give --evaluate-every and --evaluate-data too",
)


_OWN_MODEL = Need(
    lambda given: _brought(given.init_from, given.output_dir) is None,
    "with --init-from {init_from}, a pretrained model, which brings process and network",
    "start from another model",
)


@dataclass(frozen=True, kw_only=True)
class Arguments(TrainConfig):
    """The options of the command."""

    evaluate_every: int = 0
    """Number of steps between two measurements of the averaged weights, and one at the end. 0 measures nothing."""
    evaluate_data: str | None = None
    """Folder or zip of held-out pictures, which drawn ones are compared with. They are prepared as those of --data."""
    evaluate_images: int = 1000
    """Number of pictures to draw for a measurement."""
    evaluate_steps: int = 50
    """Number of sampling steps for a measurement."""
    evaluate_metrics: str = "fid,kid"
    """List of fid, kid, prdc, swd, spectrum and colour, with commas, as of scalespace evaluate."""
    evaluate_features: Literal["efficientnet-lite0"] | None = None
    """Features of fid, kid and prdc: efficientnet-lite0 (extra "features"). None takes the built-in ones."""
    trust_model: bool = False
    """Import the module of a degradation that the model of --init-from names, which runs it: know where both are from."""
    preset: Preset = "tiny"
    quiet: bool = False
    """Show no progress bars."""

    needs: ClassVar[Needs] = {
        **TrainConfig.needs,
        "trust_model": (
            Need(lambda given: given.init_from is not None, "without --init-from", "name a model by --init-from"),
            trusted(lambda given: (given.init_from,)),
        ),
        **{name: (_OWN_MODEL, *TrainConfig.needs.get(name, ())) for name in ("preset", *field_names(ModelConfig()))},
        "evaluate_every": (
            Need(
                lambda given: given.evaluate_data is not None,
                "without --evaluate-data",
                "name the pictures to compare with by --evaluate-data",
            ),
        ),
        "evaluate_data": (
            Need(lambda given: given.evaluate_every != 0, "without --evaluate-every", "give an --evaluate-every"),
        ),
        "evaluate_images": (_EVALUATED,),
        "evaluate_steps": (_EVALUATED,),
        "evaluate_metrics": (_EVALUATED,),
        "evaluate_features": (
            _EVALUATED,
            Need(
                lambda given: not {"fid", "kid", "prdc"}.isdisjoint(metrics_named(given.evaluate_metrics)),
                "on metrics without features",
                "name fid, kid or prdc in --evaluate-metrics",
            ),
        ),
    }

    def __post_init__(self):
        # Values are checked when the configuration is taken out of this, where an error is not the parser's.
        pass


def run(words: list[str]) -> None:
    """Train a model on a folder or zip of images. The same command again resumes the run.

    A pretrained model that scalespace accelerate wrote brings process and network, and is trained further by --init-from.

    example: scalespace train --preset tiny --data photos/ --output-dir runs/photos --max-steps 20000

    example: scalespace train --init-from fast --data photos/ --output-dir runs/fast --max-steps 2000 --warmup-steps 100
    """
    brings = _brought(word_after("--init-from", words), word_after("--output-dir", words))
    model = None if brings is None else brings.model
    given = read_with_preset(Arguments, words, run, model, data=tyro.MISSING, output_dir=tyro.MISSING)
    config = part(TrainConfig, given)
    from scalespace.training.loop import train

    evaluation = None
    if given.evaluate_every != 0:
        from scalespace.metrics.training.held_out import HeldOut

        evaluation = HeldOut(
            given.evaluate_every,
            given.evaluate_data,
            given.evaluate_images,
            given.evaluate_steps,
            metrics_named(given.evaluate_metrics),
            given.evaluate_features,
        )
    trained = train(config, progress=not given.quiet, say=say, evaluation=evaluation, trust=given.trust_model)
    if launched()[0] > 0:
        return
    say(f"model      {trained.model_path}")
    say(f"log        {trained.log_path}")
    if trained.evaluations.path.exists():
        say(f"measured   {trained.evaluations.path}")
    say(f"page       {trained.path / 'index.html'}")
    try:
        from scalespace.training.loss_plot import plot_losses

        plot_losses(trained.read_log(), trained.path / "loss.png", f"{Path(config.data).name}, seed {config.seed}")
    except ImportError:
        say("no loss curve: matplotlib is not installed (pip install scale-space-diffusion[plot])")
    else:
        say(f"loss curve {trained.path / 'loss.png'}")


def _brought(init_from: str | None, output_dir: str | None) -> Any:
    """What a pretrained model brings; None where the run starts from no such model."""
    if init_from is None:
        return None
    from scalespace.training.pretrained.brought import brought

    return brought(init_from, output_dir or "")
