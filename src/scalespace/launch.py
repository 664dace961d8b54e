"""What torchrun, accelerate launch, mpirun and srun say in the environment, and what of accelerate's own settings is honoured.

Whatever the user sets there is honoured, or refused in one sentence before anything is done:

    setting                                  here
    ACCELERATE_USE_CPU                       honoured
    ACCELERATE_MIXED_PRECISION               honoured by training (training/start/precision.py); fp8 is refused
    ACCELERATE_DYNAMO_BACKEND and its kin    honoured by training: the network is compiled
    ACCELERATE_CPU_AFFINITY, _DEBUG_MODE     honoured
    ACCELERATE_TORCH_DEVICE                  honoured in one process; refused in several, which would share the device
    ACCELERATE_GRADIENT_ACCUMULATION_STEPS   refused above 1: --micro-batch adds up gradients
    ACCELERATE_USE_FSDP, FSDP_VERSION 2      honoured by training (training/sharded); refused by other commands
    what FSDP 2 is set to besides            the defaults are honoured, and blocks are wrapped; anything else is refused
    DeepSpeed, FSDP 1, Megatron-LM           refused: --sharding fsdp2 and --gradient-checkpointing save memory here
    tensor and context parallelism, TPU      refused
    accelerate launch --cpu, several         refused: it starts a single process, however many it is asked for
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import NamedTuple

from scalespace.errors import UserError

__all__ = ["check_launch", "check_whole", "device_setting", "is_sharded", "launched", "unsharded"]

_TRUE = frozenset({"1", "true", "yes", "y", "t", "on"})
_TORCHRUN = "torchrun --nproc_per_node N -m scalespace ..."


class _Launcher(NamedTuple):
    """The names of the variables in which a launcher tells rank, number of processes, and rank on the machine."""

    name: str
    rank: str
    total: str
    local_rank: str


# accelerate launch sets those of torchrun.
_LAUNCHERS = (
    _Launcher("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK"),
    _Launcher("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    _Launcher("mpirun", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK"),
    _Launcher("mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    # Of a job step, that is of srun: a batch script alone has one process, however many tasks the job has.
    _Launcher("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)

_FSDP = "ACCELERATE_USE_FSDP"
_EVERY_WEIGHT = (
    "that is not done here; start plain processes with torchrun instead, and give --sharding fsdp2 or "
    "--gradient-checkpointing where memory is short"
)
_REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": ("DeepSpeed", _EVERY_WEIGHT),
    "ACCELERATE_USE_MEGATRON_LM": ("Megatron-LM", _EVERY_WEIGHT),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("tensor or context parallelism", _EVERY_WEIGHT),
    "ACCELERATE_USE_SAGEMAKER": ("SageMaker", "start the processes with torchrun there"),
}
# Those of version 1 alone say nothing of version 2: strategy, prefetching, original parameters, loading.
_FSDP_REFUSED = {
    ("FSDP_VERSION", "1"): "of which version 2 alone is done here; give --fsdp_version 2",
    ("FSDP_OFFLOAD_PARAMS", "true"): "and weights are not kept on the CPU here; leave --fsdp_offload_params out",
    ("FSDP_RESHARD_AFTER_FORWARD", "false"): "and blocks are taken apart after each pass here; set it to true",
    ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP"): "and blocks of the network are wrapped here; leave the policy out",
    ("FSDP_AUTO_WRAP_POLICY", "NO_WRAP"): "and blocks of the network are wrapped here; leave the policy out",
    ("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT"): "and checkpoints are whole here; set it to FULL_STATE_DICT",
    ("FSDP_ACTIVATION_CHECKPOINTING", "true"): "which is done here by --gradient-checkpointing; give that instead",
}
_FSDP_UNKNOWN = ("FSDP_TRANSFORMER_CLS_TO_WRAP", "FSDP_IGNORED_MODULES")


def launched() -> tuple[int, int]:
    """Rank of this process and number of processes, as whoever started it says; (0, 1) where nobody says anything."""
    launcher = _launcher()
    return (0, 1) if launcher is None else (_number(launcher.rank), _number(launcher.total))


def device_setting() -> str | None:
    """The device that accelerate is configured to use; None where that is left open."""
    return "cpu" if _is_true("ACCELERATE_USE_CPU") else os.environ.get("ACCELERATE_TORCH_DEVICE")


def is_sharded() -> bool:
    """Whether accelerate is configured to shard the network over processes."""
    return _is_true(_FSDP)


@contextlib.contextmanager
def unsharded() -> Iterator[None]:
    """Inside the block accelerate does not see that it is configured to shard."""
    known = os.environ.pop(_FSDP, None)
    try:
        yield
    finally:
        if known is not None:
            os.environ[_FSDP] = known


def check_whole(command: str) -> None:
    """Refuse a command that shares no network out.

    Raises:
        UserError: If accelerate is configured to shard it.
    """
    if is_sharded():
        raise UserError(
            f"accelerate is configured for FSDP ({_FSDP}), and scalespace {command} has a whole network in every process; "
            "start it with torchrun, or with accelerate launch --multi_gpu"
        )


def check_launch() -> None:
    """Refuse what the environment asks for and is not done here, and complete what a launcher has left out.

    Raises:
        UserError: If a setting is of no use here, or several processes were started that do not know of each other.
    """
    for variable, (what, remedy) in _REFUSED.items():
        if _is_true(variable):
            raise UserError(f"accelerate is configured to use {what} ({variable}), and {remedy}")
    if is_sharded():
        _check_shards()
    if find_spec("torch_xla") is not None:
        raise UserError("torch_xla is installed, so that accelerate uses TPUs, which are not supported; uninstall it")
    steps = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps != "1":
        raise UserError(
            f"accelerate is configured to accumulate gradients over {steps} steps (ACCELERATE_GRADIENT_ACCUMULATION_STEPS), "
            "which is not done here; set it to 1 and give --micro-batch, which adds up the gradients of one step"
        )
    if os.environ.get("ACCELERATE_MIXED_PRECISION", "").lower() == "fp8":
        raise UserError(
            "accelerate is configured for precision fp8 (ACCELERATE_MIXED_PRECISION), which is not supported; use bf16"
        )
    launcher = _launcher()
    if launcher is not None:
        _check_group(launcher)
    elif "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ:
        raise UserError(
            "accelerate launch --cpu starts a single process, however many --num_processes asks for; "
            f"use {_TORCHRUN} on the CPU, or --num_processes 1"
        )


def _check_shards() -> None:
    for (variable, refused), why in _FSDP_REFUSED.items():
        # accelerate takes version 1 where none is named.
        default = "1" if variable == "FSDP_VERSION" else ""
        if os.environ.get(variable, default).lower() == refused.lower():
            raise UserError(f"accelerate is configured for FSDP with {variable} {refused}, {why}")
    for variable in _FSDP_UNKNOWN:
        if os.environ.get(variable):
            raise UserError(
                f"accelerate is configured for FSDP with {variable}, and the blocks of the network are wrapped here, whatever "
                "their names; leave it out"
            )


def _launcher() -> _Launcher | None:
    """Who has started several processes; None where there is one."""
    return next((one for one in _LAUNCHERS if _number(one.total, 1) > 1), None)


def _check_group(launcher: _Launcher) -> None:
    count = _number(launcher.total)
    for variable in (launcher.rank, launcher.local_rank):
        if variable not in os.environ:
            raise UserError(
                f"{launcher.total} says that {count} processes were started, and {variable} is not set; unset the first, "
                f"or use {_TORCHRUN}"
            )
    if "MASTER_ADDR" not in os.environ:
        raise UserError(
            f"{launcher.name} started {count} processes without MASTER_ADDR, so that they cannot find each other; "
            f"use {_TORCHRUN}, or set MASTER_ADDR to the machine of the first process"
        )
    if "ACCELERATE_TORCH_DEVICE" in os.environ:
        raise UserError(
            f"ACCELERATE_TORCH_DEVICE names one device for {count} processes; unset it, so that each takes one of its own"
        )
    # So that torch and accelerate see what mpirun and srun say under other names.
    for ours, theirs in zip(_LAUNCHERS[0][1:], launcher[1:], strict=True):
        os.environ.setdefault(ours, str(_number(theirs)))
    os.environ.setdefault("MASTER_PORT", "29500")


def _number(variable: str, default: int = 0) -> int:
    value = os.environ.get(variable, "")
    return int(value) if value.isdecimal() else default


def _is_true(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in _TRUE
