"""The processes that share a command: how they meet, and how a failure of one of them ends all.

Every process runs the same command and comes to the same meetings in the same order. At a meeting each says whether it has
failed. One that fails anywhere says so at its next meeting and does not come to any more; the others hear of it at theirs, and
all end. So none waits for another that is gone, and exactly one of them tells the user why.

Meetings go over gloo and the CPU, whatever the device: an accelerator is not waited for, and a process that has been killed
is noticed at once. A process that is alone meets nobody, and nothing of torch.distributed is used.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scalespace.errors import Stopped, ToldError, UserError, cause
from scalespace.launch import check_launch, check_whole, device_setting, launched

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Processes", "join", "joined"]

_T = TypeVar("_T")

_LONGEST = timedelta(days=1)
"""How long a process waits for others that are alive, for example while the first reads a large data set."""
_LAST_WORD = timedelta(seconds=60)
"""How long a process that has failed waits to say so."""


@dataclass
class Processes:
    """This process among those that share a command.

    Args:
        rank: Number of this process, 0..count - 1.
        count: Number of processes.
        device: Device of this process, where there are several.
    """

    rank: int = 0
    count: int = 1
    device: torch.device | None = None
    _group: Any = field(default=None, repr=False)
    _over: bool = field(default=False, repr=False)
    _pending: Any = field(default=None, repr=False)
    _tells: bool = field(default=True, repr=False)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and speaks to the user."""
        return self.rank == 0

    def own_device(self) -> torch.device:
        """Where this process computes unless it is told otherwise: on an accelerator if there is one for it, or the CPU."""
        import torch

        if self.device is not None:
            return self.device
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        setting = device_setting()
        return torch.device(setting) if setting is not None else found or torch.device("cpu")

    def meet(self, flag: bool = False) -> bool:
        """Wait for all other processes.

        Args:
            flag: Anything that all should know if one of them knows it, for example that the run is to stop.

        Returns:
            Whether any process gave the flag.

        Raises:
            ToldError: If another process has failed, which tells why.
            UserError: If another process is gone without a word.
        """
        return self._say(self.count, flag)

    def fail(self) -> bool:
        """Tell the others that this process has failed; whether it is the one that has to tell the user why."""
        if not self._over:
            with contextlib.suppress(UserError):
                self._say(self.rank)
        return self._tells

    def first(self, do: Callable[[], _T]) -> _T:
        """What ``do`` returns on the first process, which alone runs it; it is pickled for the others.

        Raises:
            ToldError: On the other processes, if it fails.
        """
        if self.count == 1:
            return do()
        result = None
        if self.is_first:
            try:
                result = do()
            except Exception:
                self.fail()
                raise
        self.meet()
        box = [result]
        self._collect(lambda distributed: distributed.broadcast_object_list(box, 0, group=self._group))
        return box[0]  # pyright: ignore[reportReturnType]

    def gather(self, value: _T) -> list[_T]:
        """What every process gives, in the order of ranks; it is pickled."""
        if self.count == 1:
            return [value]
        self.meet()
        values: list[Any] = [None] * self.count
        self._collect(lambda distributed: distributed.all_gather_object(values, value, group=self._group))
        return values

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes. All are of one dtype and on the device of the processes."""
        import torch

        if self.count == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self._collect(lambda distributed: distributed.all_reduce(flat))
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside the block processes wait for each other without meeting, so that one that fails leaves at once.

        Raises:
            UserError: If another process is gone.
        """
        from torch import distributed

        failed = None
        try:
            yield
        except Exception as error:
            # The others cannot come to hear of it. They find this process gone, and its own words tell why.
            self._over = True
            failed = error
        if failed is None:
            return
        # gloo has no kind of error of its own; what it says is looked at, and not passed on.
        if isinstance(failed, distributed.DistError) or (type(failed) is RuntimeError and "gloo" in str(failed)):
            raise self._gone() from failed
        raise failed

    def _gone(self) -> UserError:
        message = (
            f"one of the {self.count} processes is gone or cannot be reached; what it or its launcher printed tells why, "
            "and the same command goes on where it was stopped"
        )
        return (UserError if self.is_first else ToldError)(message)

    def _say(self, failing: int, flag: bool = False) -> bool:
        """Tell all whether this process fails, by its rank or by ``count``, and hear of the lowest rank that does."""
        if self.count == 1:
            return flag
        import torch

        word = torch.tensor([failing, not flag])

        def exchange(distributed: Any) -> None:
            self._pending = distributed.all_reduce(word, distributed.ReduceOp.MIN, group=self._group, async_op=True)
            self._pending.wait(_LONGEST if failing == self.count else _LAST_WORD)

        self._collect(exchange)
        lowest, no_flag = word.tolist()
        if lowest < self.count:
            self._over = True
            self._tells = lowest == failing
            if not self._tells:
                raise ToldError(f"process {lowest} of {self.count} has failed and tells why")
        return not no_flag

    def _collect(self, communicate: Callable[[Any], None]) -> None:
        from torch import distributed

        try:
            communicate(distributed)
        except RuntimeError as error:
            self._over = True
            raise self._gone() from error


def join() -> Processes:
    """The processes that were started together with this one, which are waited for at the first call.

    Raises:
        UserError: If they cannot work together, or the environment asks for what is not done here.
    """
    check_launch()
    return _join()


@contextlib.contextmanager
def joined(command: str) -> Iterator[Processes]:
    """Join the other processes for a whole command: all end well, or all fail. Only the first prints anything but errors.

    Args:
        command: Its name.

    Raises:
        ToldError: If another process tells the user what has failed.
    """
    try:
        check_launch()
        if command != "train":
            check_whole(command)
    except UserError as error:
        # All find the same.
        if launched()[0] > 0:
            raise ToldError("the first process tells why") from error
        raise
    processes = _join()
    try:
        with contextlib.nullcontext() if processes.is_first else _silence():
            yield processes
            processes.meet()
    except (ToldError, Stopped):
        # All have agreed to stop, so that nobody waits for a word of failure.
        raise
    except Exception as error:
        if processes.fail():
            raise
        raise ToldError("another process has failed too and tells why") from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


@cache
def _join() -> Processes:
    rank, count = launched()
    if count == 1:
        return Processes()
    import torch
    from accelerate import PartialState
    from torch import distributed

    on_cpu = device_setting() == "cpu" or not _can_talk()
    local, devices = int(os.environ["LOCAL_RANK"]), 0 if on_cpu else torch.accelerator.device_count()
    if not on_cpu and local >= devices:
        raise UserError(
            f"process {local} of this machine has no accelerator of its own, since it has {devices}; start as many "
            "processes as there are accelerators, or set ACCELERATE_USE_CPU=1"
        )
    try:
        state = PartialState(cpu=on_cpu)
        group = distributed.new_group(backend="gloo", timeout=_LONGEST)
    except (RuntimeError, ValueError, ImportError) as error:
        raise UserError(
            f"the {count} processes cannot reach each other at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} "
            f"({cause(error)}); check the addresses and the port, and that all were started"
        ) from error
    if state.num_processes != count:
        raise UserError(
            f"{count} processes were started, and accelerate joined {state.num_processes}; start them with torchrun, "
            "or a single one"
        )
    device: Any = state.device
    # accelerate numbers the CPU, of which there is one.
    processes = Processes(rank, count, torch.device("cpu") if device.type == "cpu" else device, group)
    atexit.register(_leave, processes)
    return processes


def _can_talk() -> bool:
    """Whether processes can send each other what is on their accelerators."""
    import torch

    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return kind is not None and kind.type != "mps"


def _leave(processes: Processes) -> None:
    """End the threads that talk, which abort a process whose interpreter ends before them."""
    from torch import distributed

    # Where one has not come to the last meeting, the threads would wait for it in vain.
    if distributed.is_initialized() and (processes._pending is None or processes._pending.is_completed()):
        processes._group = processes._pending = None
        distributed.destroy_process_group()
