"""Completion of commands, options and their values by the shell: one script for all commands."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any

import tyro

from scalespace.commands import module_of
from scalespace.commands.parsing import SHELLS, fields
from scalespace.errors import UserError
from scalespace.training.configuration import ModelConfig, preset

__all__ = ["print_completion"]


def print_completion(words: list[str], commands: Mapping[str, str]) -> None:
    """Print the script that a shell completes the commands with.

    Args:
        words: The name of the shell, and nothing else.
        commands: Every command with a line about it.

    Raises:
        UserError: If there is no completion for that shell.
    """
    if len(words) != 1 or words[0] not in SHELLS:
        given = f'"{" ".join(words)}"' if words else "no shell"
        raise UserError(f"there is no completion for {given}; name one of {', '.join(SHELLS)}")
    # The parser's own script for a program of which every command is a part.
    program: Any = functools.reduce(operator.or_, (_subcommand(name, line) for name, line in commands.items()))
    try:
        tyro.cli(tyro.conf.OmitSubcommandPrefixes[program], prog="scalespace", args=[_PRINT, words[0]])
    except SystemExit:
        return


_PRINT = "--tyro-print-completion"


def _subcommand(name: str, line: str) -> Any:
    arguments_class = import_module(module_of(name)).Arguments
    if not issubclass(arguments_class, ModelConfig):
        return Annotated[arguments_class, tyro.conf.subcommand(name, description=line)]
    # The options below --preset have no defaults but those of a preset.
    start = {"preset": "tiny", **fields(ModelConfig, preset("tiny"))}
    needed = {
        field.name: tyro.MISSING
        for field in dataclasses.fields(arguments_class)
        if field.name not in start and field.default is field.default_factory is dataclasses.MISSING
    }
    return Annotated[
        arguments_class, tyro.conf.subcommand(name, description=line, default=arguments_class(**start, **needed))
    ]
