"""Whether a run is sharded, where the user leaves it to accelerate's configuration, and what does not go with it."""

from __future__ import annotations

import os
from dataclasses import replace

from scalespace.errors import UserError
from scalespace.launch import is_sharded
from scalespace.training.configuration import TrainConfig

__all__ = ["with_sharding"]


def with_sharding(config: TrainConfig, processes: int) -> TrainConfig:
    """The run, told whether it is sharded.

    Args:
        config: The run, with its precision.
        processes: Number of processes.

    Raises:
        UserError: If accelerate is configured for something else, or something of the run cannot be sharded.
    """
    setting = is_sharded()
    if config.sharding == "auto":
        config = replace(config, sharding="fsdp2" if setting else "none")
    if config.sharding == "none":
        if setting:
            raise UserError(
                "accelerate is configured for FSDP (ACCELERATE_USE_FSDP), and --sharding is none; leave one of them out"
            )
        return config
    # Those of a checkpoint that is whole are the same for any number, so one goes on without.
    if processes == 1:
        raise UserError(
            "--sharding fsdp2 shares the weights out among processes, and there is one; start several with torchrun "
            "--nproc_per_node N -m scalespace train ..., or leave it out"
        )
    if config.mixed_precision == "fp16":
        raise UserError("--sharding fsdp2 does not go with precision fp16, whose gradients are scaled; use bf16")
    if config.level_sampling == "least-variance":
        raise UserError(
            "--sharding fsdp2 does not go with --level-sampling least-variance, whose variances are measured by one "
            "process; choose another --level-sampling"
        )
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        raise UserError(
            "--sharding fsdp2 does not go with a compiled network (ACCELERATE_DYNAMO_BACKEND); set that to no"
        )
    return config
