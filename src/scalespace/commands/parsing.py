"""What the commands share: reading options, presets as defaults, printing, the device, and the error if matplotlib is missing.

What is read is checked here for all commands: values that no option can mean, outputs that cannot be written, and options that
have no effect.
"""

from __future__ import annotations

import dataclasses
import inspect
import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import tyro

from scalespace.effects import check_effects
from scalespace.errors import UserError, printable
from scalespace.files import Output
from scalespace.processes import join
from scalespace.reading import path_of
from scalespace.training.configuration import ModelConfig, preset
from scalespace.values import check_values

__all__ = [
    "SHELLS",
    "Preset",
    "device_named",
    "drawing",
    "dtype_named",
    "fields",
    "metrics_named",
    "on_hub",
    "part",
    "read",
    "read_with_preset",
    "say",
    "tell",
    "word_after",
]

SHELLS = ("bash", "zsh", "fish")
"""The shells that completion can be printed for."""

_COMPLETIONS = ("--tyro-print-completion", "--tyro-write-completion")
"""Options of the parser itself, before all others, which does not check the name of the shell after them."""
_FRAME = re.compile(r"\x1b\[[0-9;]*m|^[│ ] | *│?$")
_RULE = re.compile(r"(?m)^[╰ ]?[─-]{3,}.*$")
"""What the parser draws around its words, and between them."""

Preset = Annotated[str, tyro.conf.arg(help="Model to start from. All other options override its values.")]
"""The option --preset."""


def read(arguments_class: Any, words: list[str], command: Callable[..., None], default: Any = None) -> Any:
    """Read the arguments of a command from the words after its name. The command's docstring is its help.

    Args:
        arguments_class: Frozen dataclass whose docstrings are the help of the options, with a table ``needs`` of when they have
            an effect.
        words: The words after the command's name.
        command: The function of the command. Its module has the command's name.
        default: Instance that holds the defaults. None takes the defaults of the class.

    Raises:
        UserError: If the words cannot be understood, a value is none that an option can mean, an output cannot be written, or
            an option has no effect.
    """
    extra = {} if default is None else {"default": default}
    program = f"scalespace {command.__module__.rpartition('.')[2]}"
    if words and words[0] in _COMPLETIONS and words[1:] and words[1] not in SHELLS:
        raise UserError(f'there is no completion for "{words[1]}"; name one of {", ".join(SHELLS)}')
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            given = tyro.cli(arguments_class, prog=program, description=inspect.getdoc(command), args=words, **extra)
    except SystemExit as stop:
        # After --help.
        if not told.getvalue():
            raise
        raise UserError(f"{_sentence(told.getvalue())} ({program} --help tells all options)") from stop
    check_values(given)
    _check_words(given)
    check_effects(words, given, arguments_class.needs)
    return given


def read_with_preset(
    arguments_class: type,
    words: list[str],
    command: Callable[..., None],
    model: ModelConfig | None = None,
    **defaults: Any,
) -> Any:
    """Read the arguments of a command that has --preset. The preset gives the defaults of all other options.

    Args:
        arguments_class: Dataclass of the arguments, as in ``read``.
        words: Words after the command's name, as in ``read``.
        command: Function of the command, as in ``read``.
        model: What gives the defaults in the place of the preset.
        defaults: Defaults of options that no preset has.

    Raises:
        UserError: If there is no such preset, or a degradation of the user's own cannot be imported.
    """
    # The preset decides the defaults of everything else, so it is read first.
    name = word_after("--preset", words) or "tiny"
    start = fields(ModelConfig, model or preset(name))
    given = read(arguments_class, words, command, default=arguments_class(preset=name, **start, **defaults))
    if ":" in given.process.degradation:
        from scalespace.diffusion.degradations.own import import_own

        # The user has named it here and now, which is what a model that is loaded has not.
        import_own(given.process.degradation)
    return given


def word_after(option: str, words: Sequence[str]) -> str | None:
    """The value of an option among the words of a command that are not read yet; None where it is not there."""
    value = next((after for word, after in pairwise(words) if word.replace("_", "-") == option), None)
    parts = (word.partition("=") for word in words)
    return next((after for word, mark, after in parts if mark and word.replace("_", "-") == option), value)


def fields(kind: type, source: Any) -> dict[str, Any]:
    """The fields of the dataclass ``kind``, with their values in ``source``."""
    return {field.name: getattr(source, field.name) for field in dataclasses.fields(kind)}


def part(kind: type, source: Any) -> Any:
    """Take a configuration of type ``kind`` out of ``source``, which has its fields and possibly more."""
    return kind(**fields(kind, source))


def say(text: str, error: bool = False) -> None:
    """Print text for people. What would move their terminal, such as in names of files, is printed as its code.

    Args:
        text: One or more lines.
        error: Whether to print on stderr.
    """
    print(*map(printable, text.split("\n")), sep="\n", file=sys.stderr if error else sys.stdout, flush=True)


def tell(lines: Sequence[str], json: bool) -> None:
    """Print lines about the pictures, with an empty one after them: on stderr where the output is JSON."""
    say("\n".join((*lines, "")), error=json)


def device_named(name: str) -> Any:
    """The torch device of that name. "auto" is an accelerator if there is one for this process, and else the CPU.

    Raises:
        UserError: If it cannot be used here, or several processes would share it.
    """
    import torch

    processes = join()
    own = processes.own_device()
    if name in ("auto", own.type):
        return own
    if processes.count > 1 and name != "cpu":
        raise UserError(
            f'device "{name}" is one for {processes.count} processes, which have {own.type} devices of their own; leave '
            "--device out"
        )
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'device "{name}" cannot be used with this torch on this machine; use cpu or auto') from error
    return device


def dtype_named(name: str) -> Any:
    """The torch dtype of that name."""
    import torch

    return getattr(torch, name)


def metrics_named(words: str) -> tuple[str, ...]:
    """The metrics in a list with commas."""
    return tuple(filter(None, words.replace(" ", "").split(",")))


def on_hub(name: Path | str | None) -> bool:
    """Whether a model that a user names is taken to be on the Hugging Face Hub."""
    from scalespace.pipelines.folders.hub import is_hub_name

    return name is not None and is_hub_name(str(path_of(str(name))))


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


def _check_words(given: Any) -> None:
    """Refuse empty words, which a shell makes of a variable that is not set, and names of outputs that cannot be written."""
    for name, hint in get_type_hints(type(given), include_extras=True).items():
        value = getattr(given, name)
        if value == "":
            raise UserError(f"{name} is empty; give a value, or leave it out if it is optional")
        if isinstance(value, str):
            for mark in _marks(hint):
                with drawing(f"--{name.replace('_', '-')}"):
                    mark.check(Path(value))


def _marks(hint: Any) -> Iterator[Output]:
    # An optional output is a union of None and a type with its mark inside.
    yield from (mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Output))
    for inner in get_args(hint):
        yield from _marks(inner)


def _sentence(box: str) -> str:
    r"""What the parser has to say, which it draws as a box with a title and sections, as one sentence.

    >>> _sentence("╭─ Error ──╮\n│ This is  │\n│ wrong.   │\n│ ──────── │\n│ See here │\n╰──────────╯")
    'This is wrong'
    """
    inside = "\n".join(_FRAME.sub("", line) for line in box.splitlines()[1:])
    first = next(section for section in _RULE.split(inside) if section.strip())
    if "Missing from" in first:
        missing = re.findall(r"(?m)^ {4}(\S+)", first)
        return f"{' and '.join(missing)} must be given"
    said = " ".join(first.strip().split("\n\n")[0].split())
    if wrong := re.fullmatch(r"Error parsing (\S+): (.*?)\.?", said):
        option, why = wrong.groups()
        takes = re.search(rf"Argument helptext:\s+{re.escape(option)} (.*)", inside)
        return f"{option} cannot be read ({why}){f'; it takes {takes[1]}' if takes else ''}"
    meant = re.search(r"Perhaps you meant:\s+(\S+)", inside)
    return said.removesuffix(".").replace(". Expected", "; expected") + (
        f"; perhaps you meant {meant[1]}" if meant else ""
    )
