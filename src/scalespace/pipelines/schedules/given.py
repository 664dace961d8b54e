"""The options that a scheduler was given: in one form, and each thing told once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["check_given_once", "plain"]


def plain(sizes: Sequence[Any], change_points: Sequence[Any], trained_betas: Sequence[Any] | None) -> dict[str, Any]:
    """Options as tuples of numbers, whatever they were given as, so that configurations can be compared."""
    return {
        "sizes": tuple((int(height), int(width)) for height, width in sizes),
        "change_points": tuple(int(t) for t in change_points),
        "trained_betas": None if trained_betas is None else tuple(float(beta) for beta in trained_betas),
    }


def check_given_once(
    what: str, config: Mapping[str, Any], defaults: Mapping[str, Any], names: Sequence[str], timesteps: int
) -> None:
    """Refuse options beside what takes their place.

    Args:
        what: What takes their place, as a subject of a sentence.
        config: The options that were given.
        defaults: What they are if they are left out.
        names: The options whose place is taken.
        timesteps: The number of timesteps, which may be given besides if it is the same.

    Raises:
        ValueError: If an option is neither at its default nor what is known already.
    """
    own = {"num_train_timesteps": timesteps}
    if twice := [name for name in names if config[name] not in (defaults[name], own.get(name, defaults[name]))]:
        raise ValueError(
            f"{what} was given, and {', '.join(twice)} besides, which describe another; give the one or the other"
        )
