"""What the commands share: reading options, presets as defaults, the device, and the error if matplotlib is missing."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Annotated, Any

import tyro

from scalespace.errors import UserError
from scalespace.training.configuration import ModelConfig, preset

__all__ = ["Preset", "device_named", "drawing", "fields", "part", "read", "read_with_preset", "tell"]

Preset = Annotated[str, tyro.conf.arg(help="Model to start from. All other options override its values.")]
"""The option --preset."""


def read(arguments_class: type, words: list[str], command: Callable[..., None], default: Any = None) -> Any:
    """Read the arguments of a command from the words after its name. The command's docstring is its help.

    Args:
        arguments_class: Frozen dataclass whose docstrings are the help of the options.
        words: The words after the command's name.
        command: The function of the command. Its module has the command's name.
        default: Instance that holds the defaults. None takes the defaults of the class.
    """
    extra = {} if default is None else {"default": default}
    name = command.__module__.rpartition(".")[2]
    return tyro.cli(
        arguments_class, prog=f"scalespace {name}", description=inspect.getdoc(command), args=words, **extra
    )


def read_with_preset(arguments_class: type, words: list[str], command: Callable[..., None], **defaults: Any) -> Any:
    """Read the arguments of a command that has --preset. The preset gives the defaults of all other options.

    Args:
        arguments_class: Dataclass of the arguments, as in ``read``.
        words: Words after the command's name, as in ``read``.
        command: Function of the command, as in ``read``.
        defaults: Defaults of options that no preset has.

    Raises:
        UserError: If there is no such preset.
    """
    # The preset decides the defaults of everything else, so it is read first.
    name = next((after for word, after in pairwise(words) if word == "--preset"), None)
    name = next((word.removeprefix("--preset=") for word in words if word.startswith("--preset=")), name) or "tiny"
    start = fields(ModelConfig, preset(name))
    return read(arguments_class, words, command, default=arguments_class(preset=name, **start, **defaults))


def fields(kind: type, source: Any) -> dict[str, Any]:
    """The fields of the dataclass ``kind``, with their values in ``source``."""
    return {field.name: getattr(source, field.name) for field in dataclasses.fields(kind)}


def part(kind: type, source: Any) -> Any:
    """Take a configuration of type ``kind`` out of ``source``, which has its fields and possibly more."""
    return kind(**fields(kind, source))


def tell(lines: Sequence[str], json: bool) -> None:
    """Print lines about the pictures, with an empty one after them: on stderr where the output is JSON."""
    print(*lines, "", sep="\n", file=sys.stderr if json else sys.stdout)


def device_named(name: str) -> Any:
    """The torch device of that name. "auto" is an accelerator if there is one, and else the CPU.

    Raises:
        UserError: If it cannot be used here.
    """
    import torch

    if name == "auto":
        return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'device "{name}" cannot be used with this torch on this machine; use cpu or auto') from error
    return device


@contextmanager
def drawing(option: str) -> Iterator[None]:
    """Turn a missing matplotlib into an error for users.

    Args:
        option: The option that asked for the figure, for example "--plot".

    Raises:
        UserError: If matplotlib is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"matplotlib is not installed; run pip install scale-space-diffusion[plot], or leave {option} out"
        ) from error
