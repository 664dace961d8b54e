"""The process as a scheduler in diffusers' conventions.

This module adapts ``scalespace.diffusion`` and computes nothing new. diffusers counts time from 0 and has no index for the
clean image: its timestep i is our grid point t = i + 1. A state at i has size r(t). The network's output for the step from t to
s has size r(s), which ``target_size`` tells.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from scalespace.diffusion.degradations.own import own_faults
from scalespace.diffusion.grids import log_snr_grid
from scalespace.diffusion.noise import Cosine, LinearBeta, NoiseSchedule, ScaledLinearBeta
from scalespace.diffusion.prediction import Epsilon, Prediction, Sample, Velocity, clean_image
from scalespace.diffusion.process import ScaleSpaceProcess
from scalespace.diffusion.shifted import Shifted
from scalespace.diffusion.solvers import DDIM, Ancestral, Corrected, Multistep
from scalespace.errors import UserError
from scalespace.pipelines.schedules.betas import chosen_noise
from scalespace.pipelines.schedules.by_hand import grid_of_timesteps
from scalespace.pipelines.schedules.choices import BRIDGES, SPACINGS
from scalespace.pipelines.schedules.degradations import degradation_named
from scalespace.pipelines.schedules.given import check_given_once, plain
from scalespace.pipelines.schedules.names import DiffusersNames
from scalespace.pipelines.schedules.thresholding import Thresholding

__all__ = ["ScaleSpaceScheduler", "ScaleSpaceSchedulerOutput", "named_noise"]

Size = tuple[int, int]


@dataclass
class ScaleSpaceSchedulerOutput(BaseOutput):
    """Output of a step.

    Args:
        prev_sample: The next state x_s, shape (B, C, H, W) with (H, W) = r(s).
        pred_original_sample: The predicted clean image at r(s), of the same shape. It is clipped if the scheduler clips.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class ScaleSpaceScheduler(DiffusersNames, SchedulerMixin, ConfigMixin):
    """Samples a process that resizes or blurs, or your own. The defaults are the paper's process; with one size it is DDPM.

    Args:
        num_train_timesteps: Number of timesteps, T.
        beta_schedule: "linear", "scaled_linear" or "squaredcos_cap_v2" (cosine), as diffusers names them.
        beta_start: First beta of the linear schedules.
        beta_end: Last beta of the linear schedules.
        sizes: Height and width of every level, highest resolution first.
        change_points: First grid point t of every level but the highest, in ascending order.
        clip_sample: Whether predictions are clipped to [-clip_sample_range, clip_sample_range].
        clip_sample_range: Largest magnitude of a predicted pixel.
        prediction_type: What the network predicts: the clean image ("sample", as in the paper), the noise ("epsilon") or
            "v_prediction". Inside a level the last two are the same as in DDPM and diffusers. At a change of resolution
            ``scalespace.diffusion.prediction`` extends them.
        sigma_data: Standard deviation of the pictures. Only used with "v_prediction", where 1 gives the usual v and 0.5 gives
            EDM's preconditioning.
        degradation: "bilinear", the paper's; "orthonormal", which costs no retained mode any SNR if the noise is shifted;
            "pyramid", which blurs before it resizes (``GaussianPyramid``); "blurring", which is Blurring Diffusion; or
            "MODULE:CLASS", a degradation of your own, of a module that has been imported. Blurring takes one size and "epsilon"
            only, since any other output would depend on where the step ends, which the network is not told.
        sigma_blur: Standard deviation of the blur at T, in pixels. Only used with "blurring".
        shifted: Whether the log-SNR rises at every change of resolution as far as the transition allows (``Shifted``).
        solver: "ancestral", "ddim", "multistep" (second order), or "corrected" (second order with a corrector that needs no
            further network calls).
        eta: Only used with solver "ddim". 0 is deterministic inside a level, and 1 is ancestral.
        bridge: How a step raises the resolution. "exact" is the solver's own way. "isotropic", "upsampled-prediction" and
            "upsampled-state" are the baselines of ``scalespace.diffusion.bridges``.
        timestep_spacing: "linspace" for equally spaced t from T to 1, "trailing" for equal steps of t down to 0, or "log_snr"
            for equal steps of log-SNR.
        released_quirks: Whether to do two things as the paper's released code does. Sampling then ends with the state of the
            first grid point and its noise (sigma about 0.01) instead of the clean prediction, and of every change only the
            first low-resolution point is kept.
        process: A process in the place of one by names. The options that describe a process by names are left out then. Such a
            scheduler cannot be saved, but ``from_config`` takes its ``config``.
        trained_betas: Betas one by one, in the place of the number of timesteps and of a schedule of a name.
        rescale_betas_zero_snr: Whether the noise is stretched until the last timestep has no signal (``ZeroTerminal``).
        thresholding: Whether predictions are bounded by their own quantile (``Thresholding``), in the place of clip_sample.
        dynamic_thresholding_ratio: That quantile. Only used with thresholding.
        sample_max_value: Largest bound. Only used with thresholding; at 1 it is clip_sample.

    Raises:
        ValueError: If the schedules do not make a process, an option is unknown, or a process is given twice.
    """

    # Other schedulers would load this configuration without an error and sample something else.
    _compatibles: list[str] = []  # noqa: RUF012
    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_schedule: str = "linear",
        beta_start: float = 1e-4,
        beta_end: float = 2e-2,
        sizes: Sequence[Size] = ((64, 64), (32, 32), (16, 16), (8, 8)),
        change_points: Sequence[int] = (439, 751, 938),
        clip_sample: bool = True,
        clip_sample_range: float = 1.0,
        prediction_type: str = "sample",
        sigma_data: float = 1.0,
        degradation: str = "bilinear",
        sigma_blur: float = 20.0,
        shifted: bool = False,
        solver: str = "ancestral",
        eta: float = 0.0,
        bridge: str = "exact",
        timestep_spacing: str = "linspace",
        released_quirks: bool = False,
        process: ScaleSpaceProcess | None = None,
        trained_betas: Sequence[float] | None = None,
        rescale_betas_zero_snr: bool = False,
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
    ) -> None:
        self.register_to_config(**plain(sizes, change_points, trained_betas))
        # Built at once, so that a schedule that makes no process is refused where it is written down.
        if process is None:
            named = named_noise(beta_schedule, num_train_timesteps, beta_start, beta_end)
            noise = chosen_noise(named, self.config, _defaults())
            sizes, points = self.config["sizes"], self.config["change_points"]
            levels = degradation_named(degradation, sizes, points, noise.timesteps, sigma_blur)
            with own_faults(degradation):
                process = ScaleSpaceProcess(Shifted(noise, levels) if shifted else noise, levels)
        else:
            check_given_once("a process", self.config, _defaults(), _BY_NAME, process.timesteps)
        # Training scripts read it there.
        self.register_to_config(num_train_timesteps=process.timesteps)
        if len(process.degradation.jumps) < len(process.degradation.change_points):
            _check_gradual(prediction_type, solver)
        self.process = process
        self.prediction = _named(prediction_type, _PREDICTIONS, "prediction_type")(self.process.noise, sigma_data)
        self._clip_range = clip_sample_range if clip_sample and not thresholding else None
        self._threshold = Thresholding(dynamic_thresholding_ratio, sample_max_value) if thresholding else None
        self._released_quirks = released_quirks
        _named(solver, _SOLVERS, "solver")
        _named(bridge, BRIDGES, "bridge")
        self._spacing = _named(timestep_spacing, SPACINGS, "timestep_spacing")
        self._use(tuple(range(process.timesteps, 0, -1)))

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        # What other classes have in common with this one would make the process of the defaults, without a word.
        if (theirs := config_dict.get("_class_name", cls.__name__)) != cls.__name__:
            raise ValueError(f"the configuration is of a {theirs}, not of a {cls.__name__}; give one of that")
        return super().extract_init_dict(config_dict, **kwargs)

    @property
    def image_size(self) -> Size:
        """Height and width of the finished pictures."""
        return self.process.size(0)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Height and width of every level, highest resolution first."""
        return tuple(dict.fromkeys(self.process.size(t) for t in (0, *self.process.degradation.jumps)))

    @property
    def noise_size(self) -> Size:
        """Height and width of the state at the first of ``timesteps``, that of the noise that sampling starts from."""
        return self.process.size(next(iter(self._next)))

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Choose the timesteps that sampling stops at.

        Both timesteps of every change of resolution are among them if the steps suffice. So a change is crossed in the single
        step that the network was trained on; a longer step loses quality (tests/oracles/test_gaussian.py has the figures). With
        ``released_quirks`` only the first low-resolution timestep is kept, as in the released code, unless it is by "log_snr".

        Args:
            num_inference_steps: With "log_snr" the number of timesteps, from levels + 1 to T. With "linspace" the number of
                equally spaced ones, from 2 to T ("trailing": from 1), and the timesteps of changes come on top.
                ``len(timesteps)`` is the number of network calls.
            device: Device for the tensor ``timesteps``.
            timesteps: The timesteps themselves, 0..T-1 in falling order, in the place of their number.

        Raises:
            ValueError: If ``num_inference_steps`` is out of its range, the timesteps are, or both or neither are given.
        """
        if (timesteps is None) == (num_inference_steps is None):
            given = "neither was" if timesteps is None else "both were"
            raise ValueError(f"num_inference_steps or timesteps choose the steps, and {given} given; give one of them")
        if timesteps is not None:
            self._use(grid_of_timesteps(timesteps, self.process.timesteps), device)
            return
        assert num_inference_steps is not None
        if self._spacing is log_snr_grid:
            grid = log_snr_grid(self.process, num_inference_steps)
        else:
            changes = self.process.degradation.jumps
            keep = changes if self._released_quirks else (*changes, *(t - 1 for t in changes))
            grid = self._spacing(self.process.timesteps, num_inference_steps, keep)
        self._use(grid, device)

    def _use(self, grid: tuple[int, ...], device: str | torch.device | None = None) -> None:
        self._next = dict(zip(grid, (*grid[1:], 0), strict=True))
        self.timesteps = torch.tensor([t - 1 for t in grid], device=device)
        self.num_inference_steps = len(grid)
        # A new chain: what a solver remembers of an earlier one does not continue.
        solver = _SOLVERS[self.config["solver"]](self.process, self.config["eta"])
        self._solver = BRIDGES[self.config["bridge"]](self.process, solver)

    def target_size(self, timestep: int | Tensor) -> Size:
        """Height and width r(s) of the network's output in the step from ``timestep``.

        Raises:
            ValueError: If ``timestep`` is not one of ``timesteps``.
        """
        return self.process.size(self._bridge(timestep)[1])

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> ScaleSpaceSchedulerOutput | tuple[Tensor, Tensor]:
        """Take one step towards the clean image.

        Args:
            model_output: Output of the network, shape (B, C, H, W) with (H, W) = r(s). ``prediction_type`` says what it is.
                That of a network that cannot go up has (H, W) = r(t), and its prediction is carried up.
            timestep: The time of ``sample``, one of ``timesteps``.
            sample: State x_t, shape (B, C, h, w) with (h, w) = r(t).
            generator: Source of the noise. A list has one generator for each picture of the batch.
            return_dict: Whether to return an output object instead of a tuple.

        Returns:
            The next state x_s and the predicted clean image, both of shape (B, C, *r(s)).

        Raises:
            ValueError: If ``timestep`` is not one of ``timesteps``, or a size does not fit.
        """
        t, s = self._bridge(timestep)
        M = self.process.degradation.operator(s, t)
        x0_s = clean_image(self.prediction, model_output, sample, t, M, self.limited)
        if self._released_quirks and s == 0:
            prev_sample = sample
        else:
            noise = randn_tensor(tuple(x0_s.shape), generator=generator, device=x0_s.device, dtype=x0_s.dtype)
            prev_sample = self._solver.step(sample, x0_s, t, s, noise)
        if not return_dict:
            return prev_sample, x0_s
        return ScaleSpaceSchedulerOutput(prev_sample=prev_sample, pred_original_sample=x0_s)

    def limited(self, x0: Tensor) -> Tensor:
        """A predicted clean picture, kept in the range that was asked for by clip_sample or thresholding."""
        if self._clip_range is not None:
            x0 = x0.clamp(-self._clip_range, self._clip_range)
        return x0 if self._threshold is None else self._threshold(x0)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: int | Tensor) -> Tensor:
        """Draw x_t from clean images, at the resolution of t.

        Args:
            original_samples: Clean images at full resolution, shape (B, C, H, W).
            noise: White noise, shape (B, C, h, w) with (h, w) = r(t).
            timesteps: Times as diffusers counts them, an int or shape (B,). All have the same resolution.

        Returns:
            The states x_t, shape (B, C, h, w).

        Raises:
            ValueError: If the timesteps differ in resolution, or a size does not fit.
        """
        return self.process.marginal(original_samples, timesteps + 1).draw(noise)

    def save_config(self, *args: Any, **kwargs: Any) -> None:
        """Write the configuration as diffusers does.

        Raises:
            UserError: If the process was given as an object, which a file of names cannot hold.
        """
        if self.config["process"] is not None:
            raise UserError(
                f"the scheduler was given a process with {type(self.process.degradation).__name__} as an object, which cannot "
                'be saved; name its degradation as degradation="MODULE:CLASS", or save the network alone (unet.save_pretrained)'
            )
        super().save_config(*args, **kwargs)

    def __repr__(self) -> str:
        if self.config["process"] is None:
            return super().__repr__()
        # That of diffusers is JSON, and would name the defaults of what the process has instead.
        return (
            f"{type(self).__name__} { ({name: value for name, value in self.config.items() if name not in _BY_NAME}) }"
        )

    def _bridge(self, timestep: int | Tensor) -> tuple[int, int]:
        t = int(timestep) + 1
        if t not in self._next:
            raise ValueError(
                f"timestep {t - 1} is not one of the {len(self._next)} timesteps in use; "
                "take them from scheduler.timesteps, after set_timesteps"
            )
        return t, self._next[t]


def _defaults() -> dict[str, Any]:
    parameters = inspect.signature(ScaleSpaceScheduler.__init__).parameters
    return {name: parameter.default for name, parameter in parameters.items()}


def _check_gradual(prediction_type: str, solver: str) -> None:
    if prediction_type != "epsilon":
        raise ValueError(
            f'prediction_type "{prediction_type}" does not go with blurring, where what a network should put out then depends '
            'on how far the step goes; use "epsilon" (--prediction epsilon)'
        )
    if solver not in ("ancestral", "ddim"):
        raise ValueError(
            f'solver "{solver}" needs steps that change nothing but the noise, and a blur changes with every step; '
            'use "ancestral" or "ddim"'
        )


# The options that describe a process.
_BY_NAME = (
    "num_train_timesteps",
    "beta_schedule",
    "beta_start",
    "beta_end",
    "sizes",
    "change_points",
    "degradation",
    "sigma_blur",
    "shifted",
    "trained_betas",
    "rescale_betas_zero_snr",
)
_NOISES: dict[str, Callable[[int, float, float], NoiseSchedule]] = {
    "linear": LinearBeta,
    "scaled_linear": ScaledLinearBeta,
    "squaredcos_cap_v2": lambda timesteps, beta_start, beta_end: Cosine(timesteps),
}
_SOLVERS = {
    "ancestral": lambda process, eta: Ancestral(process),
    "ddim": DDIM,
    "multistep": lambda process, eta: Multistep(process),
    "corrected": lambda process, eta: Corrected(process),
}
_PREDICTIONS: dict[str, Callable[[NoiseSchedule, float], Prediction]] = {
    "sample": lambda noise, sigma_data: Sample(noise),
    "epsilon": lambda noise, sigma_data: Epsilon(noise),
    "v_prediction": Velocity,
}


def _named(name: str, choices: dict[str, Any], option: str) -> Any:
    if name not in choices:
        raise ValueError(f'{option} "{name}" is unknown; use one of {", ".join(choices)}')
    return choices[name]


def named_noise(name: str, timesteps: int, beta_start: float, beta_end: float) -> NoiseSchedule:
    """The noise schedule of a name; arguments and errors as ``ScaleSpaceScheduler`` has them."""
    return _named(name, _NOISES, "beta_schedule")(timesteps, beta_start, beta_end)
