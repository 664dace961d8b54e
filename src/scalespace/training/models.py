"""Models from the folder of a run that may not be finished: its newest checkpoint's, or an average of any width."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scalespace.diffusion.degradations.own import allow_own
from scalespace.errors import UserError, cause
from scalespace.manifest import MANIFEST, read_manifest
from scalespace.pipelines.folders.hub import is_hub_name
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.saving import load_pipeline, proof_of_weights
from scalespace.reading import read_json, reading
from scalespace.runs.averages import Snapshot, average_of, exponent
from scalespace.runs.checkpoints import Checkpoints
from scalespace.training.build import build_network, build_scheduler
from scalespace.training.configuration import ModelConfig, NetworkConfig, ProcessConfig, TransformerConfig
from scalespace.training.pretrained.brought import kept
from scalespace.training.run_directory import AVERAGES, CHECKPOINTS, MODEL, RUN_FILE, completed
from scalespace.training.trainer import EMA_FILE

__all__ = ["averaged_model", "degradation_named", "is_model", "open_model", "opened"]

_INDEX, _SCHEDULER = "model_index.json", "scheduler/scheduler_config.json"  # of a model
_RESTORE = "restore it from a copy"


def open_model(
    path: Path,
    say: Callable[[str], None],
    progress: bool = True,
    *,
    variant: str | None = None,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    trust: bool = False,
) -> ScaleSpacePipeline:
    """Load a model from its folder, or from that of a run: the finished model, or else the newest checkpoint's averages.

    Args:
        path: Folder of a model, of a run, or of one of its checkpoints, or OWNER/NAME of a model on the Hugging Face Hub.
        say: Takes a line for the user that says which model of a run it is.
        progress: Whether reading that takes over two seconds shows a bar on stderr.
        variant: Weights to take, as in ``load_pipeline``. The checkpoints of a run have none.
        revision: Of a model on the Hub.
        dtype: Number format of the network.
        trust: Whether to import the module of a degradation of the user's own, as in ``load_pipeline``.

    Raises:
        UserError: If there is none, or it cannot be read.
    """
    return opened(path, say, progress, variant=variant, revision=revision, dtype=dtype, trust=trust)[0]


def opened(
    path: Path,
    say: Callable[[str], None],
    progress: bool,
    *,
    variant: str | None = None,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    trust: bool = False,
) -> tuple[ScaleSpacePipeline, Path]:
    """What ``open_model`` gives, and the file whose checksum tells its weights; arguments and errors are the same."""
    finished = path / MODEL
    if not _is_checkpoint(path) and (not _is_run(path) or (finished / _INDEX).exists()):
        if _is_run(path):
            say(f"{finished}: the model of a finished run")
            path = finished
        pipeline = load_pipeline(path, variant=variant, revision=revision, dtype=dtype, progress=progress, trust=trust)
        return pipeline, proof_of_weights(pipeline, variant)
    for name, value in (("variant", variant), ("revision", revision)):
        if value is not None:
            raise UserError(f"{path} is no finished model, and checkpoints have no {name} {value}; leave it out")
    if _is_checkpoint(path):
        _check_whole(path, progress)
        return _pipeline(path, _averages(path, dtype), trust, MANIFEST, "run"), path / EMA_FILE
    # Whether it is of this run is not asked, since it is only read.
    newest = Checkpoints(path / CHECKPOINTS, 1, say).newest_whole(lambda _: None, progress)
    if newest is None:
        raise UserError(f"run {path} has no model and no checkpoint yet; train on")
    say(f"{newest.path}: the averaged weights at step {newest.step:,} of a run that is not finished")
    return _pipeline(path, _averages(newest.path, dtype), trust), newest.path / EMA_FILE


def is_model(path: Path) -> bool:
    """Whether ``open_model`` takes this to be a model or a run, and not a folder of pictures."""
    models = (path / _INDEX, path / MODEL / _INDEX)
    return _is_run(path) or _is_checkpoint(path) or any(model.is_file() for model in models) or is_hub_name(str(path))


def degradation_named(path: Path) -> str | None:
    """Name of the degradation of a model or run, which is not loaded; None where it is not known before that.

    Raises:
        UserError: If its configuration cannot be read.
    """
    finished = path / MODEL
    model = finished if _is_run(path) and (finished / _INDEX).exists() else path
    for name, keys in ((_SCHEDULER, ()), (RUN_FILE, ("process",)), (MANIFEST, ("run", "process"))):
        if (model / name).is_file():
            content: Any = read_json(model / name, _RESTORE)
            for key in (*keys, "degradation"):
                content = content.get(key) if isinstance(content, dict) else None
            return content if isinstance(content, str) else None
    return None


def averaged_model(
    run: Path, width: float, step: int | None = None, trust: bool = False
) -> tuple[ScaleSpacePipeline, int, int]:
    """The model of an average of another width.

    Args:
        run: Folder of a run with snapshots.
        width: Of the average, above 0 and at most 0.25.
        step: Step to average at. None takes that of the last snapshot.
        trust: Whether to import the module of a degradation of the user's own, as in ``load_pipeline``.

    Returns:
        The model, its step, and the number of snapshots that it was made from.

    Raises:
        UserError: If there are no snapshots up to that step, or the width is out of its range.
    """
    files = sorted((run / AVERAGES).glob("step-*.safetensors"))
    if not files:
        raise UserError(f"run {run} has no snapshots of averages; train with --average-every")
    last = int(files[-1].stem.removeprefix("step-"))
    at = last if step is None else step
    if not 1 <= at <= last:
        raise UserError(f"--step is {at}, and the snapshots of {run} end at step {last}; give a step from 1 to {last}")
    try:
        wanted = Snapshot(at, exponent(width))
    except ValueError as error:
        raise UserError(f"--width: {cause(error)}") from error
    with reading(run / AVERAGES, "delete the damaged file in it", SafetensorError, ValueError, KeyError, TypeError):
        weights = average_of(files, wanted)
    return _pipeline(run, weights, trust), at, len(files)


def _is_run(path: Path) -> bool:
    return (path / RUN_FILE).is_file() and not (path / _INDEX).is_file()


def _is_checkpoint(path: Path) -> bool:
    return (path / EMA_FILE).is_file()


def _check_whole(checkpoint: Path, progress: bool) -> None:
    manifest = read_manifest(checkpoint, _RESTORE)
    if manifest is None:
        raise UserError(
            f"{checkpoint} has no {MANIFEST} that tells which run it is of; {_RESTORE}, or name the run's folder"
        )
    if (change := manifest.change(checkpoint, [EMA_FILE], progress)) is not None:
        raise UserError(f"{checkpoint} is damaged ({change}); {_RESTORE}")


def _averages(checkpoint: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    file = checkpoint / EMA_FILE
    with reading(file, _RESTORE, SafetensorError):
        return {name: value.to(dtype) for name, value in load_file(file).items()}


def _pipeline(
    run: Path, weights: Mapping[str, Tensor], trust: bool, name: str = RUN_FILE, key: str | None = None
) -> ScaleSpacePipeline:
    """The model that a file in a folder tells of, as a whole or under a key, with these weights."""
    file = run / name
    with reading(file, "restore it", ValueError, TypeError, KeyError, AttributeError):
        content = read_json(file, "restore it")
        known = completed(content if key is None else content[key])
        model = ModelConfig(
            **_known(ModelConfig, known)
            | {
                "process": ProcessConfig(**_known(ProcessConfig, known["process"])),
                "network": NetworkConfig(**_known(NetworkConfig, known["network"])),
                # Runs of earlier versions had no choice.
                "transformer": TransformerConfig(**_known(TransformerConfig, known.get("transformer", {}))),
            }
        )
        names, brings = known.get("class_names") or (), kept(known)
    allow_own(model.process.degradation, trust)
    scheduler = build_scheduler(model) if brings is None else brings.process()
    with torch.device("meta"):
        network = build_network(model, scheduler.sizes) if brings is None else brings.network()
    try:
        network.load_state_dict(dict(weights), assign=True)
    except RuntimeError as error:
        raise UserError(f"the weights in {run} are not those of its {name} ({cause(error)}); restore it") from error
    labelled = model.network.num_classes is not None and len(names) > 0
    return ScaleSpacePipeline(network.eval(), scheduler, dict(enumerate(names)) if labelled else None)


def _known(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration, with lists as they come from JSON made tuples."""

    def frozen(value: Any) -> Any:
        return tuple(map(frozen, value)) if isinstance(value, list) else value

    return {field.name: frozen(values[field.name]) for field in fields(kind) if field.name in values}
