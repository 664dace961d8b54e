"""A folder of diffusers with a ``UNet2DModel`` and the noise that it was trained on, read safely: safetensors and JSON only.

The folder is a saved pipeline (DDPMPipeline, DDIMPipeline and others of these two parts), or holds unet/ and scheduler/, or has
the files of both in itself, as old models do. What the model says that this package does not do is said, or refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from safetensors import SafetensorError

from scalespace.diffusion.noise import Betas
from scalespace.errors import UserError, cause
from scalespace.memory import memory_ran_out
from scalespace.pipelines.folders.weights import PICKLES, VARIANT
from scalespace.pipelines.pretrained.unet import PretrainedUNet
from scalespace.pipelines.scheduler import ScaleSpaceScheduler, named_noise
from scalespace.reading import read_json, reading

__all__ = ["Pretrained", "read_pretrained"]

Size = tuple[int, int]

_INDEX, _UNET, _SCHEDULER = "model_index.json", "UNet2DModel", "scheduler_config.json"
_STEM = "diffusion_pytorch_model"
_REMEDY = "download or save the model again"
_KINDS = {
    "UNet2DConditionModel": "is told a text or other tokens",
    "UNet3DConditionModel": "draws videos",
    "UNetMotionModel": "draws videos",
    "UNetSpatioTemporalConditionModel": "draws videos",
    "UNet1DModel": "draws sequences",
}
"""What other networks of diffusers do."""
_SOLVERS = {"DDPMScheduler": "ancestral"} | dict.fromkeys(
    (
        *("DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"),
        *("UniPCMultistepScheduler", "DEISMultistepScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"),
        *("EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler", "KDPM2DiscreteScheduler"),
    ),
    "ddim",
)
"""The solver that comes nearest to a scheduler of diffusers, of those whose noise is given by betas."""
_KNOWN = ("DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler")
_PREDICTIONS = ("epsilon", "sample", "v_prediction")


@dataclass(frozen=True)
class Pretrained:
    """A model of diffusers as its folder describes it, without its weights.

    Args:
        folder: Folder that the model is in.
        part: Folder of the network's files, inside it.
        unet: Configuration of the ``UNet2DModel``.
        noise: num_train_timesteps, beta_schedule, beta_start and beta_end of its training, or its trained_betas; and
            rescale_betas_zero_snr if they are stretched.
        prediction_type: What it predicts, "epsilon", "sample" or "v_prediction".
        clipping: clip_sample and clip_sample_range of its scheduler.
        solver: The solver nearest to its scheduler.
        labels: Names of the classes by their numbers; None where they have none.
        notes: What its scheduler does and this package does not, in sentences.
    """

    folder: Path
    part: Path
    unet: Mapping[str, Any]
    noise: Mapping[str, Any]
    prediction_type: str
    clipping: Mapping[str, Any]
    solver: str
    labels: Mapping[str, str] | None
    notes: tuple[str, ...]

    @cached_property
    def size(self) -> Size:
        """(height, width) of the pictures that it was trained on."""
        side: Any = self.unet["sample_size"]
        height, width = side if isinstance(side, list) else (side, side)
        return height, width

    def network(self, sizes: Sequence[Size], variant: str | None = None, *, outline: bool = False) -> PretrainedUNet:
        """The network for states of these sizes.

        Args:
            sizes: (height, width), largest first.
            variant: Name of the weights, for example "fp16". None takes those without a name.
            outline: Whether to leave the weights out, and put what they would be on the device "meta".

        Raises:
            UserError: If a size does not suit the network, or its weights are missing, damaged or not its own.
        """
        try:
            with torch.device("meta"):
                # By name, since diffusers takes what is given by place for a default, and leaves it out of copies.
                network = PretrainedUNet(unet=dict(self.unet), sizes=tuple(sizes), **self.noise)
        except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError) as error:
            raise UserError(f"model {self.folder} cannot be taken: {cause(error)}") from error
        if outline:
            return network
        weights = self._weights(variant)
        network.network.load_state_dict(weights, assign=True)
        return network.eval()

    def scheduler(self, sizes: Sequence[Size], change_points: Sequence[int]) -> ScaleSpaceScheduler:
        """The scheduler of a process with its noise, shifted, on these sizes.

        Raises:
            UserError: If they make no process.
        """
        try:
            return ScaleSpaceScheduler(
                **self.noise,
                sizes=tuple(sizes),
                change_points=tuple(change_points),
                degradation="orthonormal",
                shifted=len(sizes) > 1,
                prediction_type=self.prediction_type,
                solver=self.solver,
                **self.clipping,
            )
        except ValueError as error:
            raise UserError(f"the process cannot be built: {cause(error)}") from error

    def _weights(self, variant: str | None) -> dict[str, torch.Tensor]:
        if variant is not None and VARIANT.fullmatch(variant) is None:
            raise UserError(f'variant "{variant}" is no name of weights; give letters and digits, for example fp16')
        names = {path.name for path in self.part.iterdir()}
        stem = _STEM if variant is None else f"{_STEM}.{variant}"
        index = f"{_STEM}.safetensors.index{'' if variant is None else f'.{variant}'}.json"
        if not names & {f"{stem}.safetensors", index}:
            pickles = sorted(name for name in names if name.startswith(_STEM) and name.endswith(PICKLES))
            if pickles:
                raise UserError(
                    f"{self.part} holds its weights as a pickle ({pickles[0]}), which can run any code when it is loaded, "
                    "and is refused; save the model as safetensors"
                )
            raise UserError(f"{self.part} has no {stem}.safetensors; {_REMEDY}")
        with reading(self.part, _REMEDY, SafetensorError):
            try:
                # By diffusers, which knows the names that weights had in its earlier versions.
                loaded: Any = UNet2DModel.from_pretrained(
                    self.part, variant=variant, use_safetensors=True, local_files_only=True, output_loading_info=True
                )
            except (ValueError, RuntimeError, LookupError) as error:
                if memory_ran_out(error):
                    raise
                raise self._of_another() from error
        network, found = loaded
        if any(found[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys")):
            raise self._of_another()
        weights = network.state_dict()
        for name, value in weights.items():
            if not bool(torch.isfinite(value).all()):
                raise UserError(f"model {self.folder} has weights that are NaN or infinite ({name}); {_REMEDY}")
        return weights

    def _of_another(self) -> UserError:
        return UserError(f"the weights in {self.part} do not belong to its config.json; {_REMEDY}")


def read_pretrained(folder: Path) -> Pretrained:
    """Read what a folder of diffusers says of its model.

    Args:
        folder: Folder of a pipeline of ``UNet2DModel`` and scheduler, or of these two.

    Raises:
        UserError: If it is missing, damaged, or of something else than a model of pixels whose noise is given by betas.
    """
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"model {folder} {found}; give the folder of a model that diffusers saved")
    labels = None
    if (folder / _INDEX).exists():
        labels = _check_index(folder, read_json(folder / _INDEX, _REMEDY))
    unet_file = _file(folder, "unet", "config.json")
    unet = read_json(unet_file, _REMEDY)
    _check_network(unet_file, unet)
    scheduler_file = _file(folder, "scheduler", _SCHEDULER)
    scheduler = read_json(scheduler_file, _REMEDY)
    kind = scheduler.get("_class_name")
    if kind not in _SOLVERS:
        raise UserError(
            f"{scheduler_file} is of a {kind}, and known are schedulers whose noise is given by betas, {', '.join(_KNOWN)} and "
            "others; give a model with one of those"
        )
    prediction = scheduler.get("prediction_type", "epsilon" if scheduler.get("predict_epsilon", True) else "sample")
    if prediction not in _PREDICTIONS:
        raise UserError(
            f'{scheduler_file} has the prediction type "{prediction}", and known are {", ".join(_PREDICTIONS)}; give a model '
            "that predicts one of them"
        )
    return Pretrained(
        folder=folder,
        part=unet_file.parent,
        unet={name: value for name, value in unet.items() if not name.startswith("_")},
        noise=_noise(scheduler_file, scheduler),
        prediction_type=prediction,
        clipping={
            "clip_sample": scheduler.get("clip_sample", kind in _KNOWN[:2]) is True,
            "clip_sample_range": scheduler.get("clip_sample_range", 1.0),
        },
        solver=_SOLVERS[kind],
        labels=labels,
        notes=tuple(_notes(scheduler)),
    )


def _file(folder: Path, part: str, name: str) -> Path:
    """Where a part's file lies: in the folder of the part, or in that of the model."""
    for file in (folder / part / name, folder / name):
        if file.is_file():
            return file
    raise UserError(f"model {folder} lacks {part}/{name}, without which nothing is known of its {part}; {_REMEDY}")


def _check_index(folder: Path, index: Mapping[str, Any]) -> Mapping[str, str] | None:
    """Refuse what is more than a network and a scheduler; the names of the classes."""
    kind = index.get("_class_name")
    kind = kind[-1] if isinstance(kind, list) and kind else kind
    if kind == "ScaleSpacePipeline":
        raise UserError(f"{folder} is a model of scalespace already; sample from it, or train it further")
    parts = {
        name: value[1]
        for name, value in index.items()
        if isinstance(value, list) and len(value) == 2 and not name.startswith("_") and value[1] is not None
    }
    if others := sorted(parts.keys() - {"unet", "scheduler"}):
        raise UserError(
            f"{folder} holds a {kind} with {', '.join(others)} besides a network and a scheduler, so it does not draw pixels, "
            "or not from noise and classes alone; give an unconditional or class-conditional model of pixels"
        )
    labels = index.get("id2label")
    return labels if isinstance(labels, dict) and all(isinstance(name, str) for name in labels.values()) else None


def _check_network(file: Path, unet: Mapping[str, Any]) -> None:
    if (kind := unet.get("_class_name")) != _UNET:
        does = f", which {_KINDS[kind]}" if kind in _KINDS else ""
        raise UserError(f"{file} is of a {kind}{does}; give a model with a {_UNET}")
    side = unet.get("sample_size")
    sides = side if isinstance(side, list) else [side, side]
    if len(sides) != 2 or not all(type(one) is int and one > 0 for one in sides):
        raise UserError(f"{file} has the sample_size {side}, which is no height and width; write the size in there")
    inside, outside = unet.get("in_channels", 3), unet.get("out_channels", 3)
    if inside != outside:
        raise UserError(
            f"{file} turns {inside} channels into {outside}, as networks do that predict variances or are told more than the "
            "state; give one with as many out as in"
        )
    if unet.get("time_embedding_type") == "fourier":
        raise UserError(
            f"{file} is told the logarithm of sigma and no timestep; give a network that was trained on timesteps"
        )
    if not isinstance(unet.get("down_block_types"), list):
        raise UserError(f"{file} is damaged (no down_block_types); {_REMEDY}")


def _noise(file: Path, scheduler: Mapping[str, Any]) -> dict[str, Any]:
    timesteps, betas = scheduler.get("num_train_timesteps", 1000), scheduler.get("trained_betas")
    rescaled = {"rescale_betas_zero_snr": True} if scheduler.get("rescale_betas_zero_snr") else {}
    try:
        if betas is not None:
            noise: dict[str, Any] = {"trained_betas": tuple(map(float, betas))}
            if Betas(noise["trained_betas"]).timesteps != timesteps:
                raise ValueError(f"{len(betas)} trained_betas are not one for each of {timesteps} timesteps")
        else:
            noise = {
                "num_train_timesteps": timesteps,
                "beta_schedule": scheduler.get("beta_schedule", "linear"),
                "beta_start": scheduler.get("beta_start", 1e-4),
                "beta_end": scheduler.get("beta_end", 2e-2),
            }
            named_noise(noise["beta_schedule"], timesteps, noise["beta_start"], noise["beta_end"])
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} has no noise schedule that is known: {cause(error)}") from error
    return noise | rescaled


def _notes(scheduler: Mapping[str, Any]) -> list[str]:
    """What is done otherwise here, in sentences."""
    notes = []
    variance = scheduler.get("variance_type", "fixed_small")
    if scheduler["_class_name"] == "DDPMScheduler" and not str(variance).startswith("fixed_small"):
        notes.append(f"Its scheduler draws noise of variance {variance}; here noise has the variance of the posterior.")
    if scheduler.get("thresholding"):
        notes.append("Its scheduler has dynamic thresholds; here predictions are clipped to a fixed range.")
    if scheduler.get("set_alpha_to_one") is False:
        notes.append(
            "Its scheduler ends at the noise of timestep 0 (set_alpha_to_one); here it ends at the prediction."
        )
    return notes
