"""What the commands share: reading their options, presets as defaults, the device, drawing without matplotlib."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Annotated, Any

import tyro

from scalespace.errors import UserError
from scalespace.training.configuration import ModelConfig, preset

__all__ = ["Preset", "device_named", "drawing", "fields", "part", "read", "read_with_preset"]

Preset = Annotated[str, tyro.conf.arg(help="Process and network to start from; every other option overrides it.")]
"""The option --preset."""


def read(arguments_class: type, words: list[str], command: Callable[..., None], default: Any = None) -> Any:
    """The arguments of a command, out of the words after its name; its docstring is the help.

    Args:
        arguments_class: Frozen dataclass whose docstrings are the help of the options.
        words: What stands after the command's name.
        command: The command's function; its module is named as the command.
        default: Instance with the defaults, where they are not those of the class.
    """
    extra = {} if default is None else {"default": default}
    name = command.__module__.rpartition(".")[2]
    return tyro.cli(
        arguments_class, prog=f"scalespace {name}", description=inspect.getdoc(command), args=words, **extra
    )


def read_with_preset(arguments_class: type, words: list[str], command: Callable[..., None], **defaults: Any) -> Any:
    """As ``read``, where the preset that the words name gives the defaults.

    Raises:
        UserError: If there is no such preset.
    """
    # The preset decides the defaults of everything else, so it is read first.
    name = next((after for word, after in pairwise(words) if word == "--preset"), None)
    name = next((word.removeprefix("--preset=") for word in words if word.startswith("--preset=")), name) or "tiny"
    start = fields(ModelConfig, preset(name))
    return read(arguments_class, words, command, default=arguments_class(preset=name, **start, **defaults))


def fields(kind: type, source: Any) -> dict[str, Any]:
    """The values that ``source`` has for the fields of the dataclass ``kind``."""
    return {field.name: getattr(source, field.name) for field in dataclasses.fields(kind)}


def part(kind: type, source: Any) -> Any:
    """The configuration of ``kind`` that a configuration with further fields holds."""
    return kind(**fields(kind, source))


def device_named(name: str) -> Any:
    """The torch device of that name; "auto" is an accelerator where there is one.

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
        raise UserError(f'device "{name}" cannot be used ({str(error).splitlines()[0]}); use cpu or auto') from error
    return device


@contextmanager
def drawing(option: str) -> Iterator[None]:
    """Around what needs matplotlib.

    Raises:
        UserError: If it is not installed; names the option to leave out.
    """
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"matplotlib is not installed; run pip install scale-space-diffusion[plot], or leave {option} out"
        ) from error
