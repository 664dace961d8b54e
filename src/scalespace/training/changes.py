"""Which options may change while a run is stopped, and what became of those that did.

Some change nothing of the weights and may always change. Others make the run another one, and change only if they are named by
``--allow-change``; ``run.json`` then tells from which step on, and what was before. The rest cannot change at all, since what
was learnt would no longer mean what it did.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from scalespace.errors import UserError

__all__ = [
    "CHANGES",
    "FREE",
    "Differences",
    "allowed_names",
    "check_possible",
    "earlier",
    "field_names",
    "told",
    "way_out",
    "with_change",
]

CHANGES = "changes"
"""Where ``run.json`` has them."""

FREE = frozenset(
    {"data", "output_dir", "max_steps", "log_every", "sample_every", "sample_images", "sample_steps"}
    | {"checkpoint_every", "checkpoint_minutes", "keep_checkpoints", "keep_every", "max_hours", "allow_change"}
    | {"tracker", "cache_gib", "gradient_checkpointing", "sharding"}
)
"""Fields of ``TrainConfig`` that may change between two starts of one run, since they do not change its weights."""

# Of these it is asked whether they changed: the pictures by their contents, the steps where the learning rate depends on them.
_ASKED = frozenset({"data", "max_steps"})
_ARCHITECTURE = "it decides which network the weights are of"
_FIXED = {
    "network": _ARCHITECTURE,
    "backbone": _ARCHITECTURE,
    "transformer": _ARCHITECTURE,
    "process.channels": _ARCHITECTURE,
    "released_quirks": _ARCHITECTURE,
    "prediction": "the weights were trained to predict something else",
    "init_from": "the run has gone on from its first weights",
}
_NOT_FIXED = frozenset({"network.dropout"})

Differences = Mapping[str, tuple[Any, Any]]
"""What differs, by the names of options, with the value before and that of now."""


def field_names(configuration: Any, prefix: str = "") -> Iterator[str]:
    """The names of all fields of a configuration and of those inside it, for example "process.noise"."""
    for field in dataclasses.fields(configuration):
        value = getattr(configuration, field.name)
        if dataclasses.is_dataclass(value):
            yield from field_names(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def allowed_names(words: Sequence[str], known: Collection[str]) -> frozenset[str]:
    """The fields that ``--allow-change`` names, which may be written as at the command line.

    Args:
        words: Names of options, for example "learning-rate" or "process.noise".
        known: Names of all fields of a run.

    Raises:
        UserError: If one is no option, may change at any time, or cannot change.
    """
    names: set[str] = set()
    for word in words:
        name = word.removeprefix("--").replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
            instead = (
                f"did you mean {' or '.join(map(_option, near))}?" if near else "scalespace train --help tells all"
            )
            raise UserError(f'--allow-change names "{word}", and there is no such option; {instead}')
        if name in FREE - _ASKED:
            raise UserError(f"{name} may change at any time; leave it out of --allow-change")
        if (why := _fixed(name)) is not None:
            raise UserError(f"{name} cannot change while a run goes on, since {why}; give a new --output-dir")
        names.add(name)
    return frozenset(names)


def way_out(differences: Differences) -> str:
    """How to go on with differences, as the end of a sentence; empty where that cannot be."""
    if any(_fixed(name) or _obstacle(name, *values) for name, values in differences.items()):
        return ""
    return f", or add --allow-change {' '.join(map(_option, differences))} to go on with what has changed"


def check_possible(differences: Differences) -> None:
    """Refuse changes of options that are impossible in this direction.

    Raises:
        UserError: If there is one.
    """
    for name, (before, now) in differences.items():
        if (why := _obstacle(name, before, now)) is not None:
            raise UserError(
                f"{name} cannot change from {before} to {now} while a run goes on, since {why}; give a new --output-dir, or "
                f"{before} as before"
            )


def with_change(identity: Mapping[str, Any], differences: Differences, step: int) -> dict[str, Any]:
    """What ``run.json`` holds when a run goes on at a step with changes.

    Args:
        identity: What it holds.
        differences: What has changed since.
        step: Number of steps taken. Earlier changes of later steps, which are lost, take effect here as well.
    """
    known = [{**change, "step": min(change["step"], step)} for change in identity.get(CHANGES, ())]
    if differences:
        changed = {name: {"before": before, "now": now} for name, (before, now) in differences.items()}
        known.append({"step": step, "changed": changed})
    return {**identity, CHANGES: known} if known else dict(identity)


def earlier(values: Mapping[str, Any], changes: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The values that options have had, the latest first and with it those of now."""
    state = dict(values)
    yield state
    for change in reversed(changes):
        state = state | {name: value["before"] for name, value in change["changed"].items()}
        yield state


def told(differences: Differences, step: int) -> Iterator[str]:
    """What has changed when a run goes on at a step, one sentence a line."""
    others = dict(differences)
    if "data_fingerprint" in others:
        del others["data_fingerprint"]
        before, now = others.pop("pictures", (None, None))
        counts = "" if now is None else f": {now:,}, and it had {before:,}"
        yield f"the run has other pictures from step {step:,} on{counts}"
    for name, (before, now) in others.items():
        yield f"{name} is {now} from step {step:,} on, and was {before}"


def _fixed(name: str) -> str | None:
    if name in _NOT_FIXED:
        return None
    return _FIXED.get(name) or _FIXED.get(name.partition(".")[0])


def _obstacle(name: str, before: Any, now: Any) -> str | None:
    if name == "average_every" and not before:
        return "the averages of its first steps were not kept"
    if name == "label_dropout" and bool(before) != bool(now):
        return "it decides whether the network knows a label for no class"
    if name == "mixed_precision" and now == "fp16":
        return "its checkpoints have no scale for gradients in half precision"
    return None


def _option(name: str) -> str:
    return name.replace("_", "-")
