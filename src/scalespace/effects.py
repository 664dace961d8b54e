"""Options that were given and would have no effect are refused, so that no wish is dropped without a word.

A class of options has a table ``needs``: what has to hold for an option to have an effect. An option that is not in the table
always has one. Only options that were given are looked at, since a default, also one of a preset, is no wish. Nor is an option
that was given as None or as off: what it asks for is what happens without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from scalespace.errors import UserError

__all__ = ["Need", "Needs", "check_effects", "has_effect"]


@dataclass(frozen=True)
class Need:
    """What has to hold for an option to have an effect.

    Args:
        holds: Takes the options; whether it holds.
        otherwise: Why the option has no effect where it does not hold, after "has no effect". Values of options stand in
            braces, for example "with --process.noise {process.noise}".
        way_out: What to do instead of leaving the option out, in the imperative.
    """

    holds: Callable[[Any], bool]
    otherwise: str
    way_out: str


Needs = Mapping[str, tuple[Need, ...]]
"""What options need, by the names of their fields, for example "process.beta_start"."""


def has_effect(name: str, options: Any, needs: Needs) -> bool:
    """Whether an option changes anything.

    Args:
        name: Name of its field, for example "process.beta_start".
        options: The options, this one among them.
        needs: What they need.
    """
    return all(need.holds(options) for need in needs.get(name, ()))


def check_effects(words: Iterable[str], options: Any, needs: Needs) -> None:
    """Refuse options that have no effect, and options that were given twice, of which the first has none.

    Args:
        words: The words of a command line.
        options: The options that were read from them.
        needs: What they need.

    Raises:
        UserError: If there is such an option.
    """
    given = Counter(_field(word) for word in words if word.startswith("--"))
    for name, times in given.items():
        option = f"--{name.replace('_', '-')}"
        if times > 1:
            raise UserError(f"{option} is given {times} times, and only one of them can hold; give it once")
        if name not in needs or _asks_for_nothing(attrgetter(name)(options)):
            continue
        for need in needs[name]:
            if not need.holds(options):
                why = need.otherwise.format_map(vars(options))
                raise UserError(f"{option} has no effect {why}; leave {option} out, or {need.way_out}")


def _field(word: str) -> str:
    """The name of the field: --process.no-shifted and --process.shifted=x are of process.shifted."""
    *groups, name = word[2:].partition("=")[0].replace("-", "_").split(".")
    return ".".join([*groups, name.removeprefix("no_")])


def _asks_for_nothing(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, Sequence) and len(value) == 0)
