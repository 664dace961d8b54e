"""What torchrun, accelerate launch, mpirun and srun say in the environment, and what of accelerate's own settings is honoured.

Whatever the user sets there is honoured, or refused in one sentence before anything is done:

    setting                                  here
    ACCELERATE_USE_CPU                       honoured
    ACCELERATE_MIXED_PRECISION               honoured by training (training/start/precision.py); fp8 is refused
    ACCELERATE_DYNAMO_BACKEND and its kin    honoured by training: the network is compiled
    ACCELERATE_CPU_AFFINITY, _DEBUG_MODE     honoured
    ACCELERATE_TORCH_DEVICE                  honoured in one process; refused in several, which would share the device
    ACCELERATE_GRADIENT_ACCUMULATION_STEPS   refused above 1: --micro-batch adds up gradients
    DeepSpeed, FSDP 1 and 2, Megatron-LM     refused: every process holds the whole network
    tensor and context parallelism, TPU      refused
    accelerate launch --cpu, several         refused: it starts a single process, however many it is asked for
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import NamedTuple

from scalespace.errors import UserError

__all__ = ["check_launch", "device_setting", "launched"]

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

_EVERY_WEIGHT = "every process holds the whole network here; start plain processes with torchrun instead"
_REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": ("DeepSpeed", _EVERY_WEIGHT),
    "ACCELERATE_USE_FSDP": ("FSDP", _EVERY_WEIGHT),
    "ACCELERATE_USE_MEGATRON_LM": ("Megatron-LM", _EVERY_WEIGHT),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("tensor or context parallelism", _EVERY_WEIGHT),
    "ACCELERATE_USE_SAGEMAKER": ("SageMaker", "start the processes with torchrun there"),
}


def launched() -> tuple[int, int]:
    """Rank of this process and number of processes, as whoever started it says; (0, 1) where nobody says anything."""
    launcher = _launcher()
    return (0, 1) if launcher is None else (_number(launcher.rank), _number(launcher.total))


def device_setting() -> str | None:
    """The device that accelerate is configured to use; None where that is left open."""
    return "cpu" if _is_true("ACCELERATE_USE_CPU") else os.environ.get("ACCELERATE_TORCH_DEVICE")


def check_launch() -> None:
    """Refuse what the environment asks for and is not done here, and complete what a launcher has left out.

    Raises:
        UserError: If a setting is of no use here, or several processes were started that do not know of each other.
    """
    for variable, (what, remedy) in _REFUSED.items():
        if _is_true(variable):
            raise UserError(f"accelerate is configured to use {what} ({variable}), and {remedy}")
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
