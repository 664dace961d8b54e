"""Generation with a trained model, in diffusers' conventions: noise at the smallest resolution in, pictures out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Self

import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from scalespace.data.classes import listed
from scalespace.diffusion.conditioning import augmented
from scalespace.diffusion.degradations.own import is_own
from scalespace.networks.flexi_transformer import FlexiTransformer
from scalespace.networks.flexi_unet import FlexiUNet
from scalespace.networks.network import Network, OwnTime, dtype_of, lacking
from scalespace.pipelines.folders.registration import PACKAGE
from scalespace.pipelines.folders.writing import SavedPipeline
from scalespace.pipelines.guidance import Guidance, check_guide
from scalespace.pipelines.labels import ClassLabels, class_numbers, number_of_name
from scalespace.pipelines.pretrained.unet import PretrainedUNet
from scalespace.pipelines.scheduler import ScaleSpaceScheduler

__all__ = ["ScaleSpacePipeline", "check_picture_channels"]

StepCallback = Callable[["ScaleSpacePipeline", int, int, dict[str, Tensor]], dict[str, Tensor] | None]


_FEW_STEPS = 50
_TENSORS = ("latents", "pred_original_sample")
_OUTPUTS = ("pil", "np", "pt", "latent")


class ScaleSpacePipeline(SavedPipeline):
    """Generation, unconditional, of classes, or, as the second model of a cascade, from small pictures.

    Args:
        unet: Predicts from a state at the resolution of the next step: a ``FlexiUNet``, a ``FlexiTransformer``, a
            ``PretrainedUNet`` or any other ``Network``. One of a class that is not this package's cannot be saved with it.
        scheduler: Leads from noise at the smallest resolution to pictures at the full one.
        id2label: Names of the classes by their numbers 0..num_classes-1, kept in model_index.json; None where they have none.

    Attributes:
        labels: Numbers of the classes by their names, as diffusers' ``DiTPipeline`` has them.

    Raises:
        TypeError: If the network lacks what the pipeline asks of it, or the scheduler is of another class; stock schedulers
            know one resolution only.
        ValueError: If the scheduler has a resolution that the network does not know or noise that it has no time of, the
            network's input and output differ in channels, or not every class of the network has a name of its own.
    """

    model_cpu_offload_seq = "unet"
    _callback_tensor_inputs = _TENSORS
    _num_timesteps = 0
    _guidance_scale = 1.0
    _interrupt = False

    def __init__(
        self,
        # diffusers makes a pipeline of another one by these names.
        unet: FlexiUNet | FlexiTransformer | PretrainedUNet | torch.nn.Module,
        scheduler: ScaleSpaceScheduler,
        id2label: Mapping[int | str, str] | None = None,
    ) -> None:
        super().__init__()
        # They are saved in this order, and a scheduler that cannot be saved is refused before weights are written.
        self.register_modules(scheduler=scheduler, unet=unet)
        # Numbers as keys come back from JSON as words.
        names = None if id2label is None else {int(number): name for number, name in id2label.items()}
        self.labels: dict[str, int] = {name: number for number, name in (names or {}).items()}
        if names is not None and (
            sorted(self.labels.values()) != list(range(self.unet.num_classes or 0))
            or not all(isinstance(name, str) for name in self.labels)
        ):
            raise ValueError(
                f"id2label is {dict(islice(names.items(), 3))} ... and the network has {unet.num_classes} classes; "
                "give every number from 0 on a name of its own, or leave id2label out"
            )
        self.register_to_config(id2label=names)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("unet", "scheduler"):
            super().__setattr__(name, value)
            return
        # A compiled network holds the one that was compiled.
        part = getattr(value, "_orig_mod", value)
        if name == "scheduler" and not isinstance(part, ScaleSpaceScheduler):
            raise TypeError(f"{type(part).__name__} was given where ScaleSpaceScheduler is needed; build or load that")
        if name == "unet" and (missing := lacking(part)):
            raise TypeError(
                f"{type(part).__name__} was given where a network is needed, and it lacks {', '.join(missing)}; build or load "
                "a FlexiUNet, give a network of your own these attributes, or bring one of diffusers by scalespace accelerate"
            )
        parts = {"unet": self.__dict__.get("unet"), "scheduler": self.__dict__.get("scheduler")} | {name: value}
        _check_fit(**parts)
        super().__setattr__(name, value)
        kind = next((kind for kind in type(part).__mro__ if kind.__module__.partition(".")[0] == PACKAGE), None)
        if kind is not None:
            # The package has all classes of saved models, wherever in it they are written.
            self.register_to_config(**{name: (PACKAGE, kind.__name__)})

    def to(self, *place: Any, **options: Any) -> Self:
        """Move the network, or change its number format, as diffusers does; a plain module of your own, as torch does."""
        if hasattr(self.unet, "dtype"):
            return super().to(*place, **options)
        self.unet.to(*place, **options)
        return self

    @property
    def device(self) -> torch.device:
        """Where the network is. One of your own need not tell by itself."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the network."""
        return dtype_of(self.unet)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in the order of their numbers."""
        return sorted(self.labels, key=self.labels.__getitem__)

    @property
    def default_steps(self) -> int:
        """Number of steps that a call takes if it is not told otherwise, which fits the solver.

        The ancestral solver is made for all timesteps; the others need few (docs/results/quality.md has figures).
        """
        timesteps = self.scheduler.process.timesteps
        return timesteps if self.scheduler.config["solver"] == "ancestral" else min(_FEW_STEPS, timesteps)

    def describe(self) -> dict[str, Any]:
        """What the model is, by name, for its card."""
        scheduler, classes = self.scheduler, self.unet.num_classes
        size = " ".join("{}x{}".format(*side) for side in scheduler.sizes)
        return {
            "resolutions (height x width)": size,
            "first low-resolution timesteps": " ".join(map(str, scheduler.process.degradation.change_points)) or "none",
            "timesteps": scheduler.process.timesteps,
            "channels": self.unet.in_channels,
            "parameters": f"{sum(parameter.numel() for parameter in self.unet.parameters()):,}",
            "prediction": scheduler.config["prediction_type"],
            "solver": scheduler.config["solver"],
            **({"degradation": name} if is_own(name := scheduler.config["degradation"]) else {}),
            **({} if classes is None else {"classes": classes}),
        }

    def get_label_ids(self, label: str | Sequence[str]) -> list[int]:
        """Numbers of classes by their names, for ``class_labels``.

        Args:
            label: Name of a class, or several names.

        Raises:
            ValueError: If a class of that name does not exist; it tells the nearest ones.
        """
        names = [label] if isinstance(label, str) else list(label)
        return [number_of_name(name, self.labels) for name in names]

    @property
    def num_timesteps(self) -> int:
        """Number of steps of the last call."""
        return self._num_timesteps

    @property
    def guidance_scale(self) -> float:
        """Guidance of the last step; a callback sets ``_guidance_scale`` for the steps that follow."""
        return self._guidance_scale

    @property
    def interrupt(self) -> bool:
        """Whether the call that goes on is to end with the state that it has reached; set ``_interrupt`` to say so."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        class_labels: ClassLabels | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        condition: Tensor | None = None,
        condition_noise: float = 0.1,
        *,
        latents: Tensor | None = None,
        timesteps: Sequence[int] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = _TENSORS,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        guidance_model: ScaleSpacePipeline | None = None,
        stop_at_size: tuple[int, int] | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw pictures.

        Args:
            batch_size: Number of pictures B. None takes that of class_labels, latents or condition, and 1 where there are none.
            generator: Source of all noise; a list has one for each picture, and then a picture does not depend on the
                rest of its batch.
            num_inference_steps: Sampling steps, as ``ScaleSpaceScheduler.set_timesteps`` takes them. None takes
                ``default_steps``.
            class_labels: Number or name of the class of all pictures, or a list or tensor with one for each; given if the
                network has classes. A network with a null class draws without one if they are left out.
            output_type: "pil" (grey, RGB or RGBA of 1, 3 or 4 channels), "np" (floats in [0, 1], shape (B, H, W, C)) or "pt"
                (the same as (B, C, H, W)), both of any number of channels; or "latent", the last state as it is, about -1..1.
            return_dict: Whether to return an output object and not a tuple.
            callback_on_step_end: Called as f(pipeline, step, timestep, tensors) after every step; returns the tensors, changed
                or not. Setting ``pipeline._interrupt = True`` in it ends the call with the state that it has reached, and
                ``pipeline._guidance_scale`` is that of the steps that follow.
            condition: Small pictures in [-1, 1] to enlarge, shape (B, C, *condition_size); given if and only if the network
                has a condition_size.
            condition_noise: Level of the noise that is laid over them, in [0, 1] (``scalespace.diffusion.conditioning``).
            latents: State to start from, shape (B, C, h, w) with (h, w) the resolution of the first timestep. None draws noise.
            timesteps: Timesteps to stop at, as diffusers counts them, in falling order; in the place of num_inference_steps.
            callback_on_step_end_tensor_inputs: Which tensors the callback is given: "latents", the state reached, and
                "pred_original_sample", the prediction it was reached with. Only "latents" can be changed.
            guidance_scale: 1 is no guidance. Above it, predictions go further away from those of a worse model (``Guidance``):
                the same network without the class, if it was trained with label dropout.
            guidance_interval: Smallest and largest sigma / alpha (sigma in EDM) at which there is guidance. None is everywhere.
            guidance_model: The worse model, a smaller or earlier one of the same process, on the same device.
            stop_at_size: One of the model's sizes, at which to stop. The pictures are then the prediction that leads out of
                this level, brought down to it: the mean of all small pictures that could follow, and so a little smooth.

        Returns:
            The pictures, in an ``ImagePipelineOutput`` or a tuple of one. An interrupted call gives the state's resolution.

        Raises:
            ValueError: If an argument does not fit.

        Source: Mukhopadhyay et al. 2026 (arXiv 2603.08709), sampling.
        """
        if output_type not in _OUTPUTS:
            raise ValueError(f'output_type "{output_type}" is unknown; use one of {", ".join(_OUTPUTS)}')
        if unknown := [name for name in callback_on_step_end_tensor_inputs if name not in _TENSORS]:
            raise ValueError(
                f'callback_on_step_end_tensor_inputs names "{unknown[0]}", which a step does not have; name some of '
                f"{', '.join(_TENSORS)}"
            )
        channels: int = self.unet.in_channels
        if output_type == "pil":
            check_picture_channels(channels)
        if (condition is None) != (self.unet.condition_size is None):
            raise ValueError(
                "the model enlarges small pictures; give them as condition"
                if condition is None
                else "the model enlarges no small pictures; leave condition out"
            )
        if not 0 <= condition_noise <= 1:
            raise ValueError(f"condition_noise is {condition_noise}; give a level from 0 to 1")
        device = self._execution_device
        labels = self.label_numbers(class_labels)
        batch_size = _batch(batch_size, {"class_labels": labels, "latents": latents, "condition": condition}, generator)
        labels = None if labels is None else labels.expand(batch_size).to(device)
        steps = self.default_steps if num_inference_steps is None and timesteps is None else num_inference_steps
        self.scheduler.set_timesteps(steps, timesteps=timesteps)
        guide = check_guide(guidance_model, ScaleSpacePipeline, self.unet, self.scheduler)
        guidance = Guidance(guidance_scale, guidance_interval, guide)
        guidance.check(self.unet, class_labels is not None, self.scheduler)
        stop = len(self.scheduler.timesteps) if stop_at_size is None else self.steps_to(stop_at_size)
        # States stay in float32: rounding them to half precision would be noise that the process does not know.
        shape = (batch_size, channels, *self.scheduler.noise_size)
        if latents is None:
            sample: Tensor = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        elif tuple(latents.shape) == shape:
            sample = latents.to(device, torch.float32)
        else:
            raise ValueError(
                f"latents have shape {tuple(latents.shape)}; the first timestep has states of shape {shape}"
            )
        conditions: dict[str, Tensor] = {}
        if condition is not None:
            noise = randn_tensor(condition.shape, generator=generator, device=device, dtype=torch.float32)
            level = torch.full((batch_size,), condition_noise, device=device)
            noised = augmented(condition.to(device, torch.float32), level, noise)
            conditions = {"condition": noised.to(dtype_of(self.unet)), "condition_noise": level}
        self._num_timesteps, self._interrupt = stop, False
        self._guidance_scale = guidance_scale
        with self.progress_bar(total=self._num_timesteps) as bar:  # pyright: ignore[reportCallIssue]
            for step, timestep in enumerate(self.scheduler.timesteps.tolist()[:stop]):
                if self.interrupt:
                    break
                model_output = guidance.output(self.unet, sample, timestep, self.scheduler, labels, conditions)
                output = self.scheduler.step(model_output, timestep, sample, generator)
                sample = output.prev_sample
                if step + 1 == stop < len(self.scheduler.timesteps):
                    leads_to = int(self.scheduler.timesteps[stop]) + 1
                    M = self.scheduler.process.degradation.operator(leads_to, timestep + 1)
                    sample = M(output.pred_original_sample)
                if callback_on_step_end is not None:
                    tensors = {"latents": sample, "pred_original_sample": output.pred_original_sample}
                    shown = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    sample = (callback_on_step_end(self, step, timestep, shown) or {}).get("latents", sample)
                    guidance = guidance.rescaled(
                        self._guidance_scale, self.unet, class_labels is not None, self.scheduler
                    )
                bar.set_postfix_str("{}x{}".format(*sample.shape[-2:]), refresh=False)
                bar.update()
        self.maybe_free_model_hooks()
        images: Any = sample if output_type == "latent" else (sample / 2 + 0.5).clamp(0, 1)
        if output_type in ("np", "pil"):
            images = images.permute(0, 2, 3, 1).cpu().numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def steps_to(self, size: tuple[int, int]) -> int:
        """How many of the scheduler's timesteps, from the first on, have states up to a size.

        Args:
            size: Height and width of one of the model's levels.

        Raises:
            ValueError: If the model has no such level, or none of the timesteps lies in it.
        """
        sizes, process = self.scheduler.sizes, self.scheduler.process
        found = [process.size(t + 1) for t in self.scheduler.timesteps.tolist()]
        if size not in sizes or size not in found:
            raise ValueError(
                f"stop_at_size is {'x'.join(map(str, size))}; the model has states of "
                f"{', '.join('{}x{}'.format(*one) for one in dict.fromkeys(found))}"
            )
        return sum(one in sizes[sizes.index(size) :] for one in found)

    def label_numbers(self, labels: ClassLabels | None) -> Tensor | None:
        """Numbers of the classes to draw, shape () or (B,); None for a model without classes.

        Args:
            labels: As a call takes ``class_labels``. None is without a class, if the network can draw so.

        Raises:
            ValueError: If the labels do not fit the model, or it needs some.
        """
        classes = self.unet.num_classes
        if labels is not None:
            return class_numbers(labels, classes, self.labels)
        if self.unet.no_class is not None:
            return torch.tensor(self.unet.no_class)
        if classes is not None:
            known = f": {listed(self.class_names)}" if self.labels else ""
            raise ValueError(f"class_labels are missing, and the model has the classes 0 to {classes - 1}{known}")
        return None


def _batch(asked: int | None, given: Mapping[str, Tensor | None], generator: Any) -> int:
    """The number of pictures, on which all arguments have to agree."""
    counts = {name: len(value) for name, value in given.items() if value is not None and value.ndim}
    if asked is not None:
        counts = {"batch_size": asked, **counts}
    batch = next(iter(counts.values()), 1)
    if batch < 1:
        raise ValueError(f"{next(iter(counts))} asks for {batch} pictures; ask for at least 1 picture")
    if isinstance(generator, list):
        counts["generator"] = len(generator)
    for name, count in counts.items():
        if count != batch:
            raise ValueError(
                f"{name} is for {count} pictures and {next(iter(counts))} for {batch}; give one number of them"
            )
    return batch


def _check_fit(unet: Network | None, scheduler: ScaleSpaceScheduler | None) -> None:
    if unet is None:
        return
    channels = unet.in_channels, vars(getattr(unet, "_orig_mod", unet)).get("out_channels", unet.in_channels)
    if channels[0] != channels[1]:
        raise ValueError(
            f"the network turns {channels[0]} channels into {channels[1]}; states and predictions need the same number"
        )
    if unknown := [size for size in (scheduler.sizes if scheduler else ()) if size not in unet.sizes]:
        raise ValueError(
            f"the scheduler has states of height and width {unknown[0]} and the network knows {unet.sizes}; "
            "take both from one model"
        )
    if scheduler is not None and isinstance(unet, OwnTime):
        unet.time_of(scheduler.process.noise.log_snr_table[1:])


def check_picture_channels(channels: int) -> None:
    """Refuse to make a picture of what no picture has.

    Raises:
        ValueError: If there are not 1, 3 or 4 channels.
    """
    if channels not in (1, 3, 4):
        raise ValueError(
            f"the model draws {channels} channels, and a picture has 1 (grey), 3 (RGB) or 4 (RGBA); "
            'take tensors by output_type "pt" or arrays by "np"'
        )
