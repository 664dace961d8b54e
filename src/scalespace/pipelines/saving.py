"""Loading a saved pipeline from a folder, safely: safetensors and JSON only, and every fault said in one sentence.

A model is saved with a manifest. Weights that differ from it are refused: nobody edits them by hand, so they are damaged or of
another model. A configuration that differs is only said, since people do edit those; so is code, which is never run here. A
folder without a manifest, as others release them, is loaded like before.

A model may name a module for a degradation of its user's own, which is code too. It is imported only where the user says so.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from scalespace.diffusion.degradations.own import allow_own
from scalespace.errors import UserError, cause
from scalespace.manifest import MANIFEST, Manifest, read_manifest
from scalespace.memory import check_memory, memory_ran_out
from scalespace.networks.flexi_transformer import FlexiTransformer
from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.pipelines.folders.hub import fetched, is_hub_name
from scalespace.pipelines.folders.registration import CODE_FILE, NETWORKS, PACKAGE, PIPELINE
from scalespace.pipelines.folders.weights import PICKLES, VARIANT, WeightFiles
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.pretrained.unet import PretrainedUNet
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.reading import read_json
from scalespace.values import misfit

__all__ = ["load_pipeline", "proof_of_weights"]

_STOCK = "UNet2DModel"  # which ``scalespace accelerate`` takes
_INDEX = "model_index.json"
_FILES = (_INDEX, "scheduler/scheduler_config.json", "unet/config.json")
_CODE = (f"{CODE_FILE}.py", f"scheduler/{PACKAGE}.py", f"unet/{PACKAGE}.py")
_REMEDY = "train or download the model again"
_KINDS = {
    "FlexiTransformer": (FlexiTransformer, ("sizes", "patch_size", "width", "depth", "heads")),
    "FlexiUNet": (FlexiUNet, ("sizes", "base_channels", "channel_multipliers")),
    "PretrainedUNet": (PretrainedUNet, ("unet", "sizes", "num_train_timesteps")),
    "ScaleSpaceScheduler": (ScaleSpaceScheduler, ("sizes", "change_points", "num_train_timesteps")),
}
"""What reads a configuration, by its name, and the settings without which it would be another model's."""
_SETTINGS = {"unet": "unet/config.json", "scheduler": "scheduler/scheduler_config.json"}


def load_pipeline(
    path: str | Path,
    *,
    variant: str | None = None,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
    trust: bool = False,
) -> ScaleSpacePipeline:
    """Load a model in diffusers' layout from a folder or from the Hugging Face Hub.

    Args:
        path: Folder with model_index.json, unet/ and scheduler/. OWNER/NAME, if no folder here, is a model on the Hub.
        variant: Name of the weights to take where there are several, for example "fp16". None takes those without a name.
        revision: Branch, tag or commit on the Hub. None takes the main branch.
        dtype: Number format of the network. States stay in float32.
        progress: Whether downloads and reading that takes over two seconds show bars on stderr.
        trust: Whether to import the module that the model names for a degradation of its own, which runs it. Without, a model
            with one is loaded only where that module has been imported before.

    Raises:
        UserError: If the folder or a file is missing or damaged, holds another pipeline, has weights that are not finite or
            not those of its manifest, or is a pickle, which is never opened since loading one runs whatever code it contains;
            or if the Hub has no such model, or cannot be reached; or if it needs a module that is not trusted or not there.
    """
    folder = Path(path)
    if variant is not None and VARIANT.fullmatch(variant) is None:
        raise UserError(f'variant "{variant}" is no name of weights; give letters and digits, for example fp16')
    if folder.suffix in PICKLES:
        raise UserError(
            f"{folder} is a pickle, which can run any code when it is loaded, and is refused; "
            "give the folder of a model saved as safetensors"
        )
    if is_hub_name(str(path)):
        folder = fetched(str(path), revision, variant, progress)
    elif revision is not None:
        raise UserError(f"revision {revision} was asked of {folder}, and only a model on the Hub has any; leave it out")
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"model {folder} {found}; give the model folder that training wrote (RUN/model)")
    if not (folder / _INDEX).exists() and (folder / "model" / _INDEX).exists():
        raise UserError(f"{folder} is the folder of a training run; the model in it is {folder / 'model'}")
    _check_none_of_diffusers(folder)
    parts = {name: _read_json(folder, name) for name in _FILES}
    _check_parts(folder, parts[_INDEX])
    kinds = {file: _KINDS[parts[_INDEX][part][1]] for part, file in _SETTINGS.items()}
    for name, (kind, needed) in kinds.items():
        if (fault := misfit(parts[name], kind.__init__, needed)) is not None:
            raise UserError(f"{folder / name} is damaged ({fault}); {_REMEDY}")
        if unknown := sorted(name for name in parts[name].keys() - kind._get_init_keys(kind) if name[:1] != "_"):
            raise UserError(
                f"{folder / name} has the setting {unknown[0]}, which this version of scalespace does not know; update "
                "scalespace, or take the setting out"
            )
    allow_own(parts["scheduler/scheduler_config.json"].get("degradation", ""), trust)
    weights = WeightFiles.find(folder, variant, _REMEDY)
    manifest = read_manifest(folder, "restore it, or delete it to load the model without this proof")
    edited = _edited(folder, manifest, _FILES)
    tensors: dict[str, torch.Tensor] = {}
    try:
        with torch.device("meta"):
            network: Any = kinds["unet/config.json"][0].from_config(parts["unet/config.json"])
        _check_shapes(folder, weights, {name: tuple(value.shape) for name, value in network.state_dict().items()})
        if manifest is not None:
            _check_weights(folder, manifest, weights, progress)
        needed = sum(parameter.numel() * dtype.itemsize for parameter in network.parameters())
        check_memory(f"model {folder}", {"its weights": needed}, "use a machine with more memory")
        # Not by diffusers, which shows bars of its own.
        for name in weights.files:
            if not name.endswith(".json"):
                tensors |= {tensor: value.to(dtype) for tensor, value in load_file(folder / name).items()}
        network.load_state_dict(tensors, assign=True)
        unet = network.eval()
        _check_finite(folder, unet)
        scheduler: Any = ScaleSpaceScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
        pipeline = ScaleSpacePipeline(unet, scheduler, parts[_INDEX].get("id2label"))
        # As diffusers does; there is the card that goes with the model when it is saved.
        pipeline.register_to_config(_name_or_path=str(folder))
    except UserError:
        raise
    except (ValueError, TypeError, OSError, RuntimeError, LookupError, AttributeError, ArithmeticError) as error:
        if memory_ran_out(error):
            raise
        remedy = f"{edited[0]} has been changed since it was saved, so restore it" if edited else _REMEDY
        raise UserError(f"model {folder} cannot be loaded ({cause(error)}); {remedy}") from error
    changed = "has been changed since the model was saved"
    for name in edited:
        # On stderr, since what a command prints may be for a program.
        tqdm.write(f"{folder / name} {changed}, and is used as it is", sys.stderr)
    for name in _edited(folder, manifest, _CODE):
        tqdm.write(
            f"{folder / name} {changed}; it was not run here, and trust_remote_code=True would run it", sys.stderr
        )
    return pipeline


def proof_of_weights(pipeline: ScaleSpacePipeline, variant: str | None = None) -> Path:
    """The file whose checksum tells the weights of a loaded model from others: theirs or, of several, the manifest."""
    folder = Path(str(pipeline.config["_name_or_path"]))
    files = WeightFiles.find(folder, variant, _REMEDY).files
    return folder / (files[0] if len(files) == 1 or not (folder / MANIFEST).exists() else MANIFEST)


def _check_none_of_diffusers(folder: Path) -> None:
    """Refuse a network of diffusers' own, from which another command makes a model, and name that command."""
    for file in (folder / "unet" / "config.json", folder / "config.json"):
        if file.is_file() and read_json(file, _REMEDY).get("_class_name") == _STOCK:
            raise UserError(
                f"{folder} is a model of diffusers and none of scalespace; make one of it with scalespace accelerate "
                f"{shlex.quote(str(folder))} --output NEW, and give that"
            )


def _check_parts(folder: Path, index: dict[str, Any]) -> None:
    # Models of earlier versions have the name alone.
    found = index.get("_class_name")
    if found not in (PIPELINE, [CODE_FILE, PIPELINE]):
        found = found[-1] if isinstance(found, list) and found else found
        raise UserError(f"{folder} holds a {found}, not a {PIPELINE}; give one that scalespace saved")
    for part, expected in (("unet", NETWORKS), ("scheduler", ("ScaleSpaceScheduler",))):
        found = index.get(part)
        if found not in [[PACKAGE, name] for name in expected]:
            raise UserError(
                f"{folder / _INDEX} names {found} as the {part}, not {' or '.join(expected)} of scalespace; "
                "give a model that scalespace saved"
            )


def _edited(folder: Path, manifest: Manifest | None, names: Iterable[str]) -> list[str]:
    """Which of these files are not those of the manifest; None of them has to be in it or in the folder."""
    if manifest is None:
        return []
    return [name for name in names if (folder / name).exists() and manifest.change(folder, [name]) is not None]


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    if not (folder / name).exists():
        raise UserError(f"model {folder} lacks {name}; train or download it again")
    return read_json(folder / name, _REMEDY)


def _check_shapes(folder: Path, weights: WeightFiles, needed: dict[str, tuple[int, ...]]) -> None:
    # diffusers would draw at random what is missing, and say so only in a warning.
    stored = weights.shapes
    for name in sorted(stored.keys() | needed.keys()):
        if stored.get(name) != needed.get(name):
            raise UserError(
                f"{folder / weights.files[0]} does not belong to unet/config.json: {name} has shape {stored.get(name)} in the "
                f"file and {needed.get(name)} in the network; put the two files of one model together"
            )


def _check_weights(folder: Path, manifest: Manifest, weights: WeightFiles, progress: bool) -> None:
    if (change := manifest.change(folder, weights.files, progress)) is not None:
        raise UserError(
            f"the weights of {folder} are not those that were saved ({change}); restore them, or delete "
            f"{folder / MANIFEST} if you have changed them yourself"
        )


def _check_finite(folder: Path, network: torch.nn.Module) -> None:
    for name, weight in network.state_dict().items():
        if not bool(torch.isfinite(weight).all()):
            raise UserError(f"model {folder} has weights that are NaN or infinite ({name}); {_REMEDY}")
