"""Guidance: a prediction is taken further away from a worse one.

    x_0 = worse + w (better - worse),

inside an interval of noise only, if one is given. Classifier-free guidance: better knows the class, and worse is the same
network without it, which training with label dropout teaches. Autoguidance: worse is a smaller or an earlier model. All that a
network may predict is affine in x_0 with the same x_t, so outputs are combined in the place of predictions.

Sources: Ho and Salimans 2022, Classifier-Free Diffusion Guidance (arXiv 2207.12598); Karras et al. 2024, Guiding a Diffusion
Model with a Bad Version of Itself (arXiv 2406.02507); Kynkaanniemi et al. 2024, Applying Guidance in a Limited Interval
(arXiv 2404.07724).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scalespace.diffusion.noise import NoiseSchedule
from scalespace.diffusion.shifted import Shifted
from scalespace.networks.network import Network, ask, dtype_of
from scalespace.pipelines.scheduler import ScaleSpaceScheduler

__all__ = ["Guidance", "check_guide", "guidance_given", "ratio"]


def ratio(noise: NoiseSchedule, t: int) -> float:
    """Sigma / alpha at a grid point, which is sigma in EDM; of a shifted schedule that of its base, which rises with t."""
    base = noise.base if isinstance(noise, Shifted) else noise
    return float(base.sigma(t) / base.alpha(t))


@dataclass(frozen=True)
class Guidance:
    """How predictions are guided.

    Args:
        scale: w. 1 is no guidance, and above it predictions go further.
        interval: Smallest and largest sigma / alpha at which predictions are guided. None guides at all.
        model: Network of the worse model. None takes the better one without the class.

    Raises:
        ValueError: If the scale is negative or not finite, or the interval is none.
    """

    scale: float = 1.0
    interval: tuple[float, float] | None = None
    model: Network | None = None

    def __post_init__(self):
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(f"guidance_scale is {self.scale}; give 1 for no guidance, or more")
        if self.interval is not None and (len(self.interval) != 2 or not 0 <= self.interval[0] < self.interval[1]):
            raise ValueError(
                f"guidance_interval is {self.interval}; give the smallest and the largest sigma / alpha, the smaller first"
            )

    def check(self, network: Network, labelled: bool, scheduler: ScaleSpaceScheduler) -> None:
        """Refuse guidance that would not be any.

        Args:
            network: The better network.
            labelled: Whether there are classes to draw.
            scheduler: Scheduler with its timesteps chosen.

        Raises:
            ValueError: If the network cannot predict without a class, or no timestep lies in the interval.
        """
        if self.scale == 1:
            if (given := "interval" if self.interval else "model" if self.model else None) is not None:
                raise ValueError(
                    f"guidance_{given} has no effect with guidance_scale 1; give another scale, or leave it out"
                )
            return
        if self.model is None and network.num_classes is None:
            raise ValueError(
                "guidance_scale was given to a model without classes, which can only be guided by a worse model; give one as "
                "guidance_model, or leave guidance_scale out"
            )
        if self.model is None and network.no_class is None:
            raise ValueError(
                "guidance_scale needs a model that can also predict without a class, and this one was trained without label "
                "dropout; train with --label-dropout 0.1, give a guidance_model, or leave guidance_scale out"
            )
        if self.model is None and not labelled:
            raise ValueError("guidance_scale needs class_labels to go towards; give them, or leave guidance_scale out")
        sigmas = [ratio(scheduler.process.noise, t + 1) for t in scheduler.timesteps.tolist()]
        if self.interval is not None and not any(self._inside(sigma) for sigma in sigmas):
            raise ValueError(
                f"guidance_interval {self.interval} holds none of the {len(sigmas)} steps, whose sigma / alpha goes from "
                f"{sigmas[0]:.3g} to {sigmas[-1]:.3g}; give another one"
            )

    def guides(self, scheduler: ScaleSpaceScheduler, timestep: int) -> bool:
        """Whether the prediction of a step is guided, which takes a second call of a network.

        Args:
            scheduler: Tells the noise of the step.
            timestep: The time of its state, one of the scheduler's.
        """
        return self.scale != 1 and self._inside(ratio(scheduler.process.noise, timestep + 1))

    def rescaled(self, scale: float, network: Network, labelled: bool, scheduler: ScaleSpaceScheduler) -> Guidance:
        """The same guidance with another scale, for steps that are still to come.

        Args:
            scale: w. 1 ends the guidance.
            network: The better network.
            labelled: Whether there are classes to draw.
            scheduler: Scheduler with its timesteps chosen.

        Raises:
            ValueError: If it would not be any guidance, as ``check`` says.
        """
        if scale == self.scale:
            return self
        other = replace(self, scale=scale)
        if scale != 1:
            other.check(network, labelled, scheduler)
        return other

    def output(
        self,
        network: Network,
        sample: Tensor,
        timestep: int,
        scheduler: ScaleSpaceScheduler,
        labels: Tensor | None,
        conditions: dict[str, Tensor],
    ) -> Tensor:
        """Output of the network for a step, guided where it is to be; float32, shape (B, C, H, W), as ``step`` takes it.

        Args:
            network: The better network.
            sample: State x_t, shape (B, C, h, w).
            timestep: The time of the state, one of the scheduler's.
            scheduler: Tells the resolution of the step, and its noise.
            labels: Numbers of classes, shape (B,); None without classes.
            conditions: Further arguments of the network, each for all pictures.
        """
        size = scheduler.target_size(timestep)
        # As tensors, since a compiled network would be compiled again for every number.
        time = torch.tensor(timestep, device=sample.device)
        log_snr = scheduler.process.noise.log_snr_table[timestep + 1]

        def run(chosen: Network, state: Tensor, classes: Tensor | None, **others: Tensor) -> Tensor:
            return ask(chosen, state.to(dtype_of(chosen)), time, log_snr, size, classes, **others).float()

        if not self.guides(scheduler, timestep):
            return run(network, sample, labels, **conditions)
        if self.model is None:
            assert labels is not None
            assert network.no_class is not None
            both = torch.cat([labels, torch.full_like(labels, network.no_class)])
            doubled = {name: torch.cat([value, value]) for name, value in conditions.items()}
            better, worse = run(network, torch.cat([sample, sample]), both, **doubled).chunk(2)
        else:
            better = run(network, sample, labels, **conditions)
            others: dict[str, Any] = {name: value.to(dtype_of(self.model)) for name, value in conditions.items()}
            worse = run(self.model, sample, labels if self.model.num_classes is not None else None, **others)
        return worse + self.scale * (better - worse)

    def _inside(self, sigma: float) -> bool:
        return self.interval is None or self.interval[0] <= sigma <= self.interval[1]


def check_guide(guide: Any, kind: type, network: Network, scheduler: ScaleSpaceScheduler) -> Network | None:
    """The network of the worse model.

    Args:
        guide: Its pipeline; None where there is none.
        kind: Class that the pipeline is of.
        network: Network of the better model.
        scheduler: Scheduler of the better model.

    Raises:
        TypeError: If it is no such pipeline.
        ValueError: If it is of another process, predicts something else, or has other classes or conditions.
    """
    if guide is None:
        return None
    if not isinstance(guide, kind):
        raise TypeError(f"guidance_model is a {type(guide).__name__}; give a {kind.__name__}")
    for name in ("prediction_type", "sigma_data"):
        there, here = guide.scheduler.config[name], scheduler.config[name]
        if there != here:
            raise ValueError(f"guidance_model has {name} {there} and the model {here}; guide by a model of the same")
    if guide.scheduler.process != scheduler.process:
        raise ValueError("guidance_model is of another process; guide by a model of the same resolutions and noise")
    if guide.unet.num_classes not in (None, network.num_classes):
        raise ValueError(
            f"guidance_model has {guide.unet.num_classes} classes and the model {network.num_classes or 'none'}; guide by a "
            "model of the same classes or of none"
        )
    if guide.unet.in_channels != network.in_channels or guide.unet.condition_size != network.condition_size:
        raise ValueError(
            f"guidance_model has {guide.unet.in_channels} channels and condition_size {guide.unet.condition_size}, and the "
            f"model {network.in_channels} and {network.condition_size}; guide by a model of the same"
        )
    return guide.unet


def guidance_given(given: Mapping[str, Any], kind: type, network: Network, scheduler: ScaleSpaceScheduler) -> Guidance:
    """The guidance of a call's arguments.

    Args:
        given: Arguments guidance_scale, guidance_interval and guidance_model; those that are left out are no guidance.
        kind: Class that a guide is of.
        network: Network of the better model.
        scheduler: Scheduler of the better model.

    Raises:
        TypeError: If the guide is no such pipeline.
        ValueError: If it does not fit the model, or the scale or the interval is none.
    """
    guide = check_guide(given.get("guidance_model"), kind, network, scheduler)
    return Guidance(given.get("guidance_scale", 1.0), given.get("guidance_interval"), guide)
