"""Loading a saved pipeline from a folder, safely: safetensors and JSON only, and every fault said in one sentence.

A model is saved with a manifest. Weights that differ from it are refused: nobody edits them by hand, so they are damaged or of
another model. A configuration that differs is only said, since people do edit those. A folder without a manifest, as others
release them, is loaded like before.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from scalespace.errors import UserError, cause
from scalespace.manifest import MANIFEST, Manifest, read_manifest
from scalespace.memory import check_memory, memory_ran_out
from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.pipelines.pipeline import ScaleSpacePipeline
from scalespace.pipelines.scheduler import ScaleSpaceScheduler
from scalespace.reading import check_readable, read_json, reading
from scalespace.values import misfit

__all__ = ["WEIGHTS", "load_pipeline"]

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
"""File of the weights in the folder of a model."""
_FILES = ("model_index.json", "scheduler/scheduler_config.json", "unet/config.json")
_REMEDY = "train or download the model again"
_POINTER = b"version https://git-lfs"  # how a file begins that Git LFS has put in the place of a large one
_SETTINGS = {
    "unet/config.json": (FlexiUNet, ("sizes", "base_channels", "channel_multipliers")),
    "scheduler/scheduler_config.json": (ScaleSpaceScheduler, ("sizes", "change_points", "num_train_timesteps")),
}
"""What reads a configuration, and the settings without which it would be another model's."""
_PICKLES = frozenset({".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth"})


def load_pipeline(path: str | Path) -> ScaleSpacePipeline:
    """Load a model from a folder in diffusers' layout.

    Args:
        path: Folder with model_index.json, unet/ and scheduler/.

    Raises:
        UserError: If the folder or a file is missing or damaged, holds another pipeline, has weights that are not finite or
            not those of its manifest, or is a pickle, which is never opened since loading one runs whatever code it contains.
    """
    folder = Path(path)
    if folder.suffix in _PICKLES:
        raise UserError(
            f"{folder} is a pickle, which can run any code when it is loaded, and is refused; "
            "give the folder of a model saved as safetensors"
        )
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"model {folder} {found}; give the model folder that training wrote (RUN/model)")
    if not (folder / "model_index.json").exists() and (folder / "model" / "model_index.json").exists():
        raise UserError(f"{folder} is the folder of a training run; the model in it is {folder / 'model'}")
    parts = {name: _read_json(folder, name) for name in _FILES}
    pipeline_class = parts["model_index.json"].get("_class_name")
    if pipeline_class != "ScaleSpacePipeline":
        raise UserError(f"{folder} holds a {pipeline_class}, not a ScaleSpacePipeline; give one that scalespace saved")
    for part, expected in (("unet", "FlexiUNet"), ("scheduler", "ScaleSpaceScheduler")):
        found = parts["model_index.json"].get(part)
        if found != ["scalespace", expected]:
            raise UserError(
                f"{folder / 'model_index.json'} names {found} as the {part}, not {expected} of scalespace; "
                "give a model that scalespace saved"
            )
    for name, (kind, needed) in _SETTINGS.items():
        if (fault := misfit(parts[name], kind.__init__, needed)) is not None:
            raise UserError(f"{folder / name} is damaged ({fault}); {_REMEDY}")
    stored = _stored_shapes(folder)
    manifest = read_manifest(folder, "restore it, or delete it to load the model without this proof")
    edited = [name for name in _FILES if manifest is not None and manifest.change(folder, [name]) is not None]
    try:
        with torch.device("meta"):
            network: Any = FlexiUNet.from_config(parts["unet/config.json"])
        _check_shapes(folder, stored, {name: tuple(value.shape) for name, value in network.state_dict().items()})
        if manifest is not None:
            _check_weights(folder, manifest)
        needed = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
        check_memory(f"model {folder}", {"its weights": needed}, "use a machine with more memory")
        # Part by part, since diffusers would show a bar for it.
        unet: Any = FlexiUNet.from_pretrained(folder / "unet", use_safetensors=True, local_files_only=True)
        _check_finite(folder, unet)
        scheduler: Any = ScaleSpaceScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
        pipeline = ScaleSpacePipeline(unet, scheduler, parts["model_index.json"].get("id2label"))
    except UserError:
        raise
    except (ValueError, TypeError, OSError, RuntimeError, LookupError, AttributeError, ArithmeticError) as error:
        if memory_ran_out(error):
            raise
        remedy = f"{edited[0]} has been changed since it was saved, so restore it" if edited else _REMEDY
        raise UserError(f"model {folder} cannot be loaded ({cause(error)}); {remedy}") from error
    for name in edited:
        # On stderr, since what a command prints may be for a program.
        tqdm.write(f"{folder / name} has been changed since the model was saved, and is used as it is", sys.stderr)
    return pipeline


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    if not (folder / name).exists():
        raise UserError(f"model {folder} lacks {name}; train or download it again")
    return read_json(folder / name, _REMEDY)


def _stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    file = folder / WEIGHTS
    if not file.exists():
        pickles = sorted(f.name for f in file.parent.iterdir() if f.suffix in _PICKLES) if file.parent.is_dir() else []
        if pickles:
            raise UserError(
                f"{file.parent} holds its weights as a pickle ({pickles[0]}), which can run any code when it is loaded, and "
                "is refused; save the model as safetensors"
            )
        raise UserError(f"model {folder} lacks {WEIGHTS}; train or download it again")
    check_readable(file)
    with file.open("rb") as content:
        if content.read(len(_POINTER)) == _POINTER:
            raise UserError(f"{file} is a pointer of Git LFS to the weights; run git lfs pull in its repository")
    with reading(file, _REMEDY, SafetensorError), safe_open(file, framework="pt") as weights:
        return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118


def _check_shapes(folder: Path, stored: dict[str, tuple[int, ...]], needed: dict[str, tuple[int, ...]]) -> None:
    # diffusers would draw at random what is missing, and say so only in a warning.
    for name in sorted(stored.keys() | needed.keys()):
        if stored.get(name) != needed.get(name):
            raise UserError(
                f"{folder / WEIGHTS} does not belong to unet/config.json: {name} has shape {stored.get(name)} in the file "
                f"and {needed.get(name)} in the network; put the two files of one model together"
            )


def _check_weights(folder: Path, manifest: Manifest) -> None:
    if (change := manifest.change(folder, [WEIGHTS], progress=True)) is not None:
        raise UserError(
            f"the weights of {folder} are not those that were saved ({change}); restore them, or delete "
            f"{folder / MANIFEST} if you have changed them yourself"
        )


def _check_finite(folder: Path, network: FlexiUNet) -> None:
    for name, weight in network.state_dict().items():
        if not bool(torch.isfinite(weight).all()):
            raise UserError(f"model {folder} has weights that are NaN or infinite ({name}); {_REMEDY}")
