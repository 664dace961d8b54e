"""The command line: the only place where strings become objects."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import tyro

from scalespace import __version__
from scalespace.arguments import (
    AnalyzeArguments,
    EvaluateArguments,
    PlanArguments,
    ReproduceArguments,
    SampleArguments,
    TrainArguments,
)
from scalespace.errors import UserError
from scalespace.training.configuration import ModelConfig, TrainConfig, preset

__all__ = ["main"]

_USAGE = """\
usage: scalespace {train,sample,evaluate,plan,analyze,reproduce} ...

Scale Space Diffusion: one pixel-space diffusion model whose noisy steps run on small tensors.

  plan       what a model will cost: levels, parameters, GFLOPs
  train      train a model on a folder or zip of images; the same command again resumes
  sample     draw pictures from a trained model
  evaluate   how far pictures are from reference pictures: FID, KID, precision and more
  analyze    how much of your pictures survives the noise, and which resolutions that needs
  reproduce  a table of the paper, computed again

examples:
  scalespace plan --preset celeba64-4l
  scalespace train --preset tiny --data synthetic:shapes --output-dir runs/shapes --max-steps 2000
  scalespace sample runs/shapes/model --num-images 64 --steps 50 --output runs/shapes/pictures
  scalespace evaluate runs/shapes/model photos.zip --num-images 1000

scalespace COMMAND --help tells all options of a command."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit code 2 and one sentence on stderr for every error that is the user's to mend."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[[list[str]], None]] = {
        "train": _train,
        "sample": _sample,
        "plan": _plan,
        "evaluate": _evaluate,
        "analyze": _analyze,
        "reproduce": _reproduce,
    }
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE)
        sys.exit(0 if words else 2)
    if words[0] == "--version":
        print(__version__)
        return
    try:
        if words[0] not in commands:
            raise UserError(f'"{words[0]}" is not a command; use one of {", ".join(commands)} (scalespace --help)')
        commands[words[0]](words[1:])
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:
        # Whoever read the output has had enough of it. Nothing may be flushed into the pipe when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.strerror is None:
            raise
        place = "" if error.filename is None else f" ({error.filename})"
        _fail(f"{error.strerror}{place}; check the path, that you may write there, and the free space")
    except KeyboardInterrupt:
        advice = "; the same command goes on from the last checkpoint" if words[0] in ("train", "reproduce") else ""
        print(f"scalespace: interrupted{advice}", file=sys.stderr)
        sys.exit(130)


def _fail(message: str) -> None:
    print(f"scalespace: error: {message}", file=sys.stderr)
    sys.exit(2)


def _train(words: list[str]) -> None:
    """Train a model on a folder or zip of images; the same command again resumes.

    example: scalespace train --preset tiny --data photos/ --output-dir runs/photos --max-steps 20000
    """
    given = _parse(TrainArguments, words, data=tyro.MISSING, output_dir=tyro.MISSING)
    config = _as(TrainConfig, given)
    from scalespace.training.loop import train

    run = train(config, progress=not given.quiet)
    print(f"model      {run.model_path}")
    print(f"log        {run.log_path}")
    try:
        from scalespace.training.loss_plot import plot_losses

        plot_losses(run.read_log(), run.path / "loss.png", f"{Path(config.data).name}, seed {config.seed}")
    except ImportError:
        print("no loss curve: matplotlib is not installed (pip install scale-space-diffusion[plot])")
    else:
        print(f"loss curve {run.path / 'loss.png'}")


def _sample(words: list[str]) -> None:
    """Draw pictures from a trained model: PNG files and a grid.

    example: scalespace sample runs/photos/model --num-images 64 --steps 50 --output pictures --trajectory
    """
    given = _cli(SampleArguments, words, _sample)
    from scalespace.pipelines.sampling import sample_to_folder, use_solver
    from scalespace.pipelines.saving import load_pipeline

    pipeline = load_pipeline(given.model)
    choices = {
        "solver": given.solver,
        "eta": given.eta,
        "bridge": given.bridge,
        "timestep_spacing": given.spacing,
    }
    upsample = None if given.upsample is None else load_pipeline(given.upsample)
    for model in filter(None, (pipeline, upsample)):
        try:
            use_solver(model, **{name: choice for name, choice in choices.items() if choice is not None})
        except ValueError as error:
            raise UserError(str(error)) from error
        model.to(_device(given.device))
    files = sample_to_folder(
        pipeline,
        Path(given.output),
        num_images=given.num_images,
        steps=given.steps,
        seed=given.seed,
        batch_size=given.batch_size,
        class_label=given.class_label,
        trajectory=given.trajectory,
        progress=not given.quiet,
        upsample=upsample,
    )
    if given.json:
        print(json.dumps(dataclasses.asdict(files), default=str))
        return
    print(f"pictures   {len(files.pictures)} in {given.output}, {files.network_calls} network calls each")
    print(f"grid       {files.grid}")
    if files.trajectory is not None:
        print(f"trajectory {files.trajectory}")


def _evaluate(words: list[str]) -> None:
    """Measure how far pictures are from reference pictures; every figure with its counts and a 95 % interval.

    example: scalespace evaluate runs/photos/model photos.zip --num-images 1000 --metrics fid,kid,swd

    example: scalespace evaluate pictures/ photos.zip --inception-weights inception-2015-12-05.pt --json
    """
    given = _cli(EvaluateArguments, words, _evaluate)
    from scalespace.evaluation.evaluate import Options, evaluate, leads
    from scalespace.evaluation.provenance import provenance
    from scalespace.evaluation.sides import Sampling

    metrics = None if given.metrics is None else tuple(filter(None, given.metrics.replace(" ", "").split(",")))
    sampling = Sampling(**_fields(Sampling, given) | {"device": _device(given.device)})
    shared = {name: value for name, value in vars(given).items() if name in Options.__dataclass_fields__}
    options = Options(**shared | {"metrics": metrics, "sampling": sampling})
    found = evaluate(given.generated, given.reference, options, not given.quiet)
    if not leads():
        return
    source = provenance(f"scalespace evaluate {shlex.join(words)}", given.seed)
    print(json.dumps(found.as_dict() | {"source": source.as_dict()}) if given.json else found.as_text())
    if given.save_statistics is not None and not given.json:
        print(f"statistics of the reference are in {given.save_statistics}")


def _plan(words: list[str]) -> None:
    """Print what a model will cost: levels, grid points, parameters, GFLOPs and the validity of every change.

    With --data also what it costs when every level is left as soon as noise has drowned what it alone holds.

    example: scalespace plan --preset celeba64-4l --process.levels 3
    example: scalespace plan --preset celeba64-4l --data photos/ --tolerance 0.01 --plot resolutions.png
    """
    given = _parse(PlanArguments, words)
    for option in ("tolerance", "plot"):
        if given.data is None and getattr(given, option) is not None:
            raise UserError(f"--{option} is about the spectrum of pictures; give --data with it")
    from scalespace.evaluation.cost import make_plan

    model = _as(ModelConfig, given)
    command = f"scalespace plan {shlex.join(words)} (version {__version__})"
    plan = make_plan(model) if given.data is None else _plan_from_data(given, model, command)
    print(json.dumps(plan.as_dict(), indent=2) if given.json else plan.as_text())


def _plan_from_data(given: PlanArguments, model: ModelConfig, command: str) -> Any:
    from scalespace.evaluation.cost import make_plan_from_data
    from scalespace.training.data import open_images
    from scalespace.training.spectrum import mean_spectrum

    path = given.data or ""
    if given.tolerance is not None:
        model = dataclasses.replace(model, process=dataclasses.replace(model.process, tolerance=given.tolerance))

    def measure(size: tuple[int, int]) -> Any:
        # Only the pictures that are measured are decoded.
        return mean_spectrum(open_images(path, size, cache_bytes=0, progress=not given.quiet), not given.quiet)

    plan = make_plan_from_data(model, measure)
    if given.plot is not None:
        from scalespace.evaluation.spectrum_plot import plot_spectrum

        with _drawing("--plot"):
            try:
                plot_spectrum(plan, Path(given.plot), f"Resolutions read off {Path(path).name}", command)
            except ValueError as error:
                raise UserError(f"--plot {given.plot} cannot be drawn ({error}); name it .png, .pdf or .svg") from error
    return plan


def _analyze(words: list[str]) -> None:
    """Print how much of pictures survives the noise at t, and which resolutions that needs, against the paper's schedules.

    example: scalespace analyze photos/ --preset celeba64-4l --output information
    """
    given = _parse(AnalyzeArguments, words, data=tyro.MISSING)
    from scalespace.evaluation.analysis import analyze_pictures
    from scalespace.evaluation.provenance import provenance

    model = _as(ModelConfig, given)
    analysis = analyze_pictures(model, given.data, not given.quiet)
    source = provenance(f"scalespace analyze {shlex.join(words)}")
    print(json.dumps(analysis.as_dict(source)) if given.json else analysis.as_text())
    if given.output is not None:
        with _drawing("--output"):
            from scalespace.evaluation.information_plot import write_analysis

            figure, *_ = write_analysis(analysis, Path(given.output), source)
        if not given.json:
            print(f"\nfigure              {figure}")


def _reproduce(words: list[str]) -> None:
    """Print a table of the paper, computed again, as Markdown.

    example: scalespace reproduce main --data photos.zip --output tables

    example: scalespace reproduce main --scale paper --data img_align_celeba/ --inception-weights inception-2015-12-05.pt
    """
    given = _cli(ReproduceArguments, words, _reproduce)
    from scalespace.evaluation.paper import reproduce
    from scalespace.evaluation.provenance import provenance

    source = provenance(f"scalespace reproduce {shlex.join(words)}")
    table = reproduce(given.table, given, source, device=_device(given.device), progress=not given.quiet)
    print(table.as_json() if given.json else table.as_markdown())


@contextmanager
def _drawing(option: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"matplotlib is not installed; run pip install scale-space-diffusion[plot], or leave {option} out"
        ) from error


def _fields(kind: type, source: Any) -> dict[str, Any]:
    return {field.name: getattr(source, field.name) for field in dataclasses.fields(kind)}


def _as(kind: type, source: Any) -> Any:
    """The configuration of ``kind`` that a configuration with further fields holds."""
    return kind(**_fields(kind, source))


def _parse(arguments_class: type, words: list[str], **defaults: Any) -> Any:
    # The preset decides the defaults of everything else, so it is read first.
    name = next((after for word, after in pairwise(words) if word == "--preset"), None)
    name = next((word.removeprefix("--preset=") for word in words if word.startswith("--preset=")), name) or "tiny"
    model = preset(name)
    start = _fields(ModelConfig, model)
    command = {TrainArguments: _train, PlanArguments: _plan, AnalyzeArguments: _analyze}[arguments_class]
    return _cli(arguments_class, words, command, default=arguments_class(preset=name, **start, **defaults))


def _cli(arguments_class: type, words: list[str], command: Callable[..., None], default: Any = None) -> Any:
    name = command.__name__.removeprefix("_")
    extra = {} if default is None else {"default": default}
    return tyro.cli(
        arguments_class,
        prog=f"scalespace {name}",
        description=inspect.getdoc(command),
        args=words,
        **extra,
    )


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'device "{name}" cannot be used ({str(error).splitlines()[0]}); use cpu or auto') from error
    return device
