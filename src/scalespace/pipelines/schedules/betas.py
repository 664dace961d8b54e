"""The noise schedule of a scheduler's options: of a name or of betas one by one, and stretched where that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalespace.diffusion.noise import Betas, NoiseSchedule, ZeroTerminal
from scalespace.pipelines.schedules.given import check_given_once

__all__ = ["chosen_noise", "stretched"]

# What betas that are given one by one take the place of.
_OF_A_NAME = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end")


def chosen_noise(named: NoiseSchedule, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> NoiseSchedule:
    """The noise schedule of a configuration.

    Args:
        named: The schedule that it names.
        config: The configuration, of which trained_betas, rescale_betas_zero_snr and prediction_type are used.
        defaults: What its options are if they are left out.

    Raises:
        ValueError: If betas make no schedule or are given besides one, or a network would have to find what is not there.
    """
    noise = named
    if (betas := config["trained_betas"]) is not None:
        noise = Betas(betas)
        check_given_once(f"trained_betas of {len(betas)} numbers", config, defaults, _OF_A_NAME, len(betas))
    if config["rescale_betas_zero_snr"] and config["prediction_type"] == "epsilon":
        raise ValueError(
            'prediction_type "epsilon" tells nothing of the picture where a state is noise alone, as '
            'rescale_betas_zero_snr makes it at the last timestep; use "v_prediction" or "sample", or leave it out'
        )
    return stretched(noise, config["rescale_betas_zero_snr"])


def stretched(noise: NoiseSchedule, to_zero_snr: bool) -> NoiseSchedule:
    """A schedule as it is, or stretched until its last timestep has no signal."""
    return ZeroTerminal(noise) if to_zero_snr else noise
