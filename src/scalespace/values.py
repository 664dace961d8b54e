"""Which values an option can have, wherever it comes from: the command line, a program, or a file."""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

from scalespace.errors import UserError

__all__ = ["check_values", "misfit"]

_LARGEST_INTEGER, _LARGEST_FLOAT = 10**12, 1e38
"""Magnitudes beyond which a number overflows somewhere: integers become floats on their way, and those float32."""
_SHOWN = 60  # letters of a value


def check_values(given: Any, prefix: str = "") -> None:
    """Refuse numbers that no option of a command or configuration can mean, in the groups of options inside it too.

    Args:
        given: A dataclass.
        prefix: Of the names of its fields.

    Raises:
        UserError: If a number is not finite or out of all proportion.
    """
    for option in dataclasses.fields(given):
        name, value = f"{prefix}{option.name}", getattr(given, option.name)
        if dataclasses.is_dataclass(value):
            check_values(value, f"{name}.")
        for number in _numbers(value):
            # Comparisons let the one or the other of infinity and NaN through.
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{name} is {number}; give a finite number")
            if not _in_proportion(number):
                largest = _LARGEST_FLOAT if isinstance(number, float) else _LARGEST_INTEGER
                raise UserError(f"{name} is out of all proportion; give a number between {-largest} and {largest}")


def misfit(settings: Mapping[str, Any], function: Callable[..., Any], needed: Sequence[str] = ()) -> str | None:
    """In a few words, why a JSON object cannot hold arguments that were saved for a function; None if it can.

    Args:
        settings: The object. Names that the function does not have are not looked at.
        function: It has types for its arguments.
        needed: Arguments that must be there. Others may be of later versions than the object.
    """
    hints = get_type_hints(function)
    for name in inspect.signature(function).parameters.keys() & hints.keys():
        if name not in settings:
            if name in needed:
                return f"it lacks {name}"
        elif not _fits(settings[name], hints[name]):
            return f"{name} cannot be {settings[name]!r:.{_SHOWN}}"
    return None


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from a JSON file is one of a type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is tuple:
        return (
            isinstance(value, list)
            and len(value) == len(inner)
            and all(_fits(*pair) for pair in zip(value, inner, strict=True))
        )
    if origin is Sequence:
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    if hint is float or hint is int:
        return type(value) in (int, hint) and _in_proportion(value)
    return type(value) is hint


def _in_proportion(number: int | float) -> bool:
    return abs(number) <= (_LARGEST_FLOAT if isinstance(number, float) else _LARGEST_INTEGER)


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _numbers(inner)
