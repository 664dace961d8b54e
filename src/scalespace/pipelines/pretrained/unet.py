"""A U-Net of diffusers that was trained at one resolution, as a network of a process with several.

The state at a lower resolution is a small picture with white noise, and its SNR is SNR_t of the process, shifted or not. The
network is told the time i' at which its own training had that SNR,

    log-SNR(i') of its noise schedule = log-SNR_t of the process,

linear in log-SNR between its timesteps, so that i' is no integer in general; a network that has a learned table of times is
told the nearest one. With one resolution and its own noise i' = t - 1, and sampling is that of diffusers.

It cannot go up: at a change of resolution it predicts at the size of the state, and the process carries the prediction up.

Sources: the shift of log-SNR with resolution, Hoogeboom, Heek and Salimans 2023, simple diffusion (arXiv 2301.11093). Growing
the resolution of pretrained models while they sample, Xiao et al. 2026, Spectral Progressive Diffusion (arXiv 2605.18736).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DModel, UNet2DOutput
from torch import Tensor

from scalespace.diffusion.noise import Betas
from scalespace.pipelines.scheduler import named_noise
from scalespace.pipelines.schedules.betas import stretched

__all__ = ["PretrainedUNet", "downsampling"]

Size = tuple[int, int]

# Of log-SNR: what rounding may add to the range of a schedule, so that its own ends lie inside.
_ROUNDING = 1e-6


def downsampling(unet: Mapping[str, Any]) -> int:
    """By how much a ``UNet2DModel`` of this configuration makes its input smaller on the way down, 2 per level but the last."""
    return 2 ** (len(unet["down_block_types"]) - 1)


class PretrainedUNet(ModelMixin, ConfigMixin):
    """A ``UNet2DModel`` of diffusers with the noise that it was trained on.

    Args:
        unet: Configuration of the ``UNet2DModel``.
        sizes: (height, width) of the states that it is to be given, largest first. It was trained on the first.
        num_train_timesteps: Number of timesteps that it was trained with.
        beta_schedule: Their noise, as in ``ScaleSpaceScheduler``; so are the next two.
        beta_start: First beta.
        beta_end: Last beta.
        trained_betas: Betas one by one, in the place of the number of timesteps and of a schedule of a name.
        rescale_betas_zero_snr: Whether the noise is stretched until the last timestep has no signal (``ZeroTerminal``).

    Raises:
        ValueError: If the noise is none, a size is not divided by what the network makes smaller, or its configuration is of
            something that this class cannot be.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        unet: dict,
        sizes: Sequence[Size],
        num_train_timesteps: int = 1000,
        beta_schedule: str = "linear",
        beta_start: float = 1e-4,
        beta_end: float = 2e-2,
        trained_betas: Sequence[float] | None = None,
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        super().__init__()
        self.network = UNet2DModel(**unet)
        config: Any = self.network.config
        self.sizes = tuple((int(height), int(width)) for height, width in sizes)
        # JSON has no tuples, so a loaded configuration holds lists; one form makes configurations comparable.
        self.register_to_config(sizes=self.sizes)
        factor = downsampling(config)
        for size in self.sizes:
            if any(side % factor or side < factor for side in size):
                raise ValueError(
                    f"the network halves its input {len(config.down_block_types) - 1} times, and {factor} does not divide "
                    f"{size[0]}x{size[1]}; take fewer levels, or a network for other sizes"
                )
        if config.class_embed_type is not None:
            raise ValueError(
                f'the network is conditioned by class_embed_type "{config.class_embed_type}", and classes by number are all '
                "that is known here; take another network"
            )
        self.in_channels: int = config.in_channels
        self.out_channels: int = config.out_channels
        self.num_classes: int | None = config.num_class_embeds
        self.no_class: int | None = None
        self.condition_size: Size | None = None
        named = named_noise(beta_schedule, num_train_timesteps, beta_start, beta_end)
        betas = None if trained_betas is None else tuple(float(beta) for beta in trained_betas)
        self.register_to_config(trained_betas=betas)
        self.noise = stretched(named if betas is None else Betas(betas), rescale_betas_zero_snr)

    def time_of(self, log_snr: Tensor) -> Tensor:
        """Its time where its noise has these log-SNRs.

        Args:
            log_snr: log(alpha^2 / sigma^2), of any shape.

        Returns:
            float32, of that shape: times from 0 to num_train_timesteps - 1, between two where the SNR is.

        Raises:
            ValueError: If an SNR is beyond those that the network was trained on.
        """
        # Rising, as a search needs it.
        wanted, table = log_snr.double().cpu(), self.noise.log_snr_table[1:].flip(0)
        beyond = wanted[(wanted < table[0] - _ROUNDING) | (wanted > table[-1] + _ROUNDING)]
        if len(beyond):
            raise ValueError(
                f"the network has no time of a log-SNR of {beyond[0]:.4g}, since it was trained from {table[0]:.4g} to "
                f"{table[-1]:.4g}; give a process with the noise of its training, and changes of resolution at later timesteps"
            )
        wanted = wanted.clamp(table[0], table[-1])
        above = torch.searchsorted(table, wanted).clamp(1, len(table) - 1)
        share = (wanted - table[above - 1]) / (table[above] - table[above - 1])
        times = len(table) - above - share
        # A learned table of times has none between.
        return (times.round().long() if self.network.config["time_embedding_type"] == "learned" else times.float()).to(
            log_snr.device
        )

    def forward(
        self,
        sample: Tensor,
        timestep: int | float | Tensor,
        target_size: Sequence[int] | None = None,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """Predict at the size of the state.

        Args:
            sample: State, shape (B, C, h, w) with (h, w) one of `sizes`.
            timestep: The network's own time, as ``time_of`` has it. A number, or a tensor of shape () or (B,).
            target_size: Not used, since the network cannot go up.
            class_labels: Integers in 0..num_classes-1, shape (B,). Needed if and only if the network has classes.
            return_dict: Whether to return an output object and not a tuple.

        Returns:
            What the network was trained to predict, shape (B, C, h, w).

        Raises:
            ValueError: If the size is not one of `sizes`.
        """
        if tuple(sample.shape[-2:]) not in self.sizes:
            raise ValueError(
                f"sample has height and width {tuple(sample.shape[-2:])}, which the network was not prepared for; use one of "
                f"{self.sizes}"
            )
        time = torch.as_tensor(timestep, device=sample.device)
        return self.network(sample, time, class_labels=class_labels, return_dict=return_dict)
