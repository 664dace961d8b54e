"""What options of models and of training runs need to have an effect. Options that are not here always have one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scalespace.effects import Need, Needs

__all__ = ["COMPARED_WITH_DATA", "MODEL", "SEVERAL_LEVELS", "TRAINING"]

SEVERAL_LEVELS = Need(
    lambda given: given.process.several_levels,
    "on a model of one resolution",
    "give --process.levels of 2 or more",
)
_NO_SIZES = Need(
    lambda given: not given.process.sizes,
    "with --process.sizes, which give the size of every level",
    "leave --process.sizes out",
)
_LINEAR = Need(
    lambda given: given.process.noise != "cosine",
    "with --process.noise {process.noise}, which has no betas to choose",
    "give --process.noise linear",
)
_NO_CHANGE_POINTS = Need(
    lambda given: not given.process.change_points,
    "with --process.change-points, which give the levels and where they begin",
    "leave --process.change-points out",
)
_EXPONENT = Need(
    lambda given: given.process.resolution in ("convex", "sigmoid", "tanh"),
    "with --process.resolution {process.resolution}, which has no exponent",
    "give --process.resolution convex, sigmoid or tanh",
)
_GRIDS = Need(
    lambda given: given.sample_every > 0,
    "with --sample-every 0, which draws no sample grids",
    "give a larger --sample-every",
)


_UNET = Need(lambda given: given.backbone == "unet", "with --backbone {backbone}", "give --backbone unet")
_TRANSFORMER = Need(
    lambda given: given.backbone == "transformer", "with --backbone {backbone}", "give --backbone transformer"
)


def _own(given: Any) -> bool:
    """Whether the degradation is MODULE:CLASS."""
    return ":" in given.process.degradation


MODEL: Needs = {
    "process.image_size": (_NO_SIZES,),
    "process.levels": (_NO_SIZES, _NO_CHANGE_POINTS),
    "process.beta_start": (_LINEAR,),
    "process.beta_end": (_LINEAR,),
    "process.resolution": (SEVERAL_LEVELS, _NO_CHANGE_POINTS),
    "process.gamma": (SEVERAL_LEVELS, _NO_CHANGE_POINTS, _EXPONENT),
    "process.tolerance": (
        SEVERAL_LEVELS,
        _NO_CHANGE_POINTS,
        Need(
            lambda given: given.process.resolution == "auto",
            "with --process.resolution {process.resolution}, which does not look at the data",
            "give --process.resolution auto",
        ),
    ),
    "process.degradation": (
        replace(
            SEVERAL_LEVELS,
            holds=lambda given: given.process.several_levels or given.process.degradation == "blurring" or _own(given),
        ),
    ),
    "process.sigma_blur": (
        Need(
            lambda given: given.process.degradation == "blurring",
            "with --process.degradation {process.degradation}",
            "give --process.degradation blurring",
        ),
    ),
    # One of the user's may change at one resolution too.
    "process.shifted": (replace(SEVERAL_LEVELS, holds=lambda given: given.process.several_levels or _own(given)),),
    "label_dropout": (
        Need(
            lambda given: given.network.num_classes is not None,
            "without --network.num-classes",
            "give the number of classes by --network.num-classes",
        ),
    ),
    "network.base_channels": (_UNET,),
    "network.channel_multipliers": (_UNET,),
    "network.blocks_per_level": (_UNET,),
    "network.attention_max_size": (_UNET,),
    "network.attention_heads": (_UNET,),
    "network.min_channels_per_group": (_UNET,),
    "network.paths": (_UNET, SEVERAL_LEVELS),
    "transformer.patch_size": (_TRANSFORMER,),
    "transformer.width": (_TRANSFORMER,),
    "transformer.depth": (_TRANSFORMER,),
    "transformer.heads": (_TRANSFORMER,),
    "sigma_data": (
        Need(lambda given: given.prediction == "v", "with --prediction {prediction}", "give --prediction v"),
    ),
}
"""What options of ``ModelConfig`` need."""

COMPARED_WITH_DATA: Needs = {
    **MODEL,
    # The tolerance gives the data's schedule, and "auto" is compared with ConvexDecay.
    "process.tolerance": (SEVERAL_LEVELS,),
    "process.gamma": (
        SEVERAL_LEVELS,
        _NO_CHANGE_POINTS,
        replace(_EXPONENT, holds=lambda given: given.process.resolution != "equal"),
    ),
}
"""What options of ``ModelConfig`` need where the model's resolution schedule is compared with that of the data."""

TRAINING: Needs = {
    **MODEL,
    "sigma_data": (
        Need(
            lambda given: "v" in (given.prediction, given.weight),
            "with --prediction {prediction} and --weight {weight}",
            "give --prediction v or --weight v",
        ),
    ),
    "level_sampling": (SEVERAL_LEVELS,),
    "full_rate_steps": (
        Need(
            lambda given: given.learning_rate_schedule == "inverse-sqrt",
            "with --learning-rate-schedule {learning_rate_schedule}",
            "give --learning-rate-schedule inverse-sqrt",
        ),
    ),
    "ema_power": (
        Need(
            lambda given: given.ema_decay > 0,
            "with --ema-decay 0, where weights are not averaged",
            "give a larger --ema-decay",
        ),
    ),
    "weight_gamma": (
        Need(
            lambda given: given.weight in ("min-snr", "sigmoid"),
            "with --weight {weight}",
            "give --weight min-snr or sigmoid",
        ),
    ),
    "weight_snr": (
        Need(
            lambda given: given.weight != "constant",
            "with --weight constant, which is no function of the SNR",
            "give another --weight",
        ),
        SEVERAL_LEVELS,
        Need(
            lambda given: given.process.shifted,
            "with --process.no-shifted, where there is only one SNR",
            "give --process.shifted",
        ),
    ),
    "change_share": (SEVERAL_LEVELS,),
    "level_shares": (SEVERAL_LEVELS,),
    "weigh_changes": (
        SEVERAL_LEVELS,
        Need(
            lambda given: given.change_share is not None or bool(given.level_shares),
            "without --change-share and --level-shares",
            "give one of them",
        ),
    ),
    "condition_noise": (
        Need(
            lambda given: given.network.condition_size is not None,
            "without --network.condition-size",
            "give the size of the small pictures by --network.condition-size",
        ),
    ),
    "sample_images": (_GRIDS,),
    "sample_steps": (_GRIDS,),
}
"""What options of ``TrainConfig`` need."""
