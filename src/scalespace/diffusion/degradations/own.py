"""Degradations that a user has written, by name: MODULE:CLASS.

A name is what configurations and saved models hold; nothing is pickled. The class is called as CLASS(sizes, change_points,
timesteps), which every subclass of ``Levels`` can be.

To import a module is to run it. So nothing here imports one but ``import_own``, which is called where a user has named it or
trusts the model that names it. Everything else takes the class from modules that have been imported already.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scalespace.diffusion.degradation import Degradation
from scalespace.errors import UserError
from scalespace.operators.linear import Size

__all__ = ["allow_own", "import_own", "is_imported", "is_own", "own_class", "own_degradation", "own_faults"]

_NAME = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)")
_SHOWN = 200  # letters of a message


def is_own(name: str) -> bool:
    """Whether a name is that of a user's class, and not one of this package's names."""
    return isinstance(name, str) and ":" in name


def allow_own(name: str, trust: bool) -> None:
    """What has to happen before a model is loaded whose folder names a degradation.

    Args:
        name: Its name; one of this package's needs nothing.
        trust: Whether the user trusts the folder and the module, which is then imported.

    Raises:
        UserError: If the module is neither imported nor trusted, or cannot be imported.
    """
    if is_own(name):
        (import_own if trust else own_class)(name)


def is_imported(name: str) -> bool:
    """Whether the module of MODULE:CLASS has been imported, so that nothing is run to find the class.

    Raises:
        UserError: If it is no such name.
    """
    return sys.modules.get(_parts(name)[0]) is not None


def import_own(name: str) -> type[Degradation]:
    """Import the module of MODULE:CLASS, which runs it, and take the class. The current folder is searched last.

    Raises:
        UserError: If there is no such module, it fails, or it has no such degradation.
    """
    module, _ = _parts(name)
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        # Last, so that no file that happens to lie here takes the place of an installed module.
        sys.path.append(here)
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise UserError(
                f'there is no module {error.name}, which the degradation "{name}" is to be in; run the command in the folder '
                "of its file, put that folder into PYTHONPATH, or install it"
            ) from error
        raise _failed(f"module {module} cannot be imported", error) from error
    except (Exception, SystemExit) as error:
        raise _failed(f"module {module} cannot be imported", error) from error
    finally:
        if added:
            sys.path.remove(here)
    return own_class(name)


def own_class(name: str) -> type[Degradation]:
    """The class of MODULE:CLASS, of a module that has been imported.

    Raises:
        UserError: If it has not, or there is no such degradation.
    """
    module, found = _parts(name)
    if not is_imported(name):
        raise UserError(
            f'the degradation "{name}" is code of the module {module}, which is not imported, and loading a model runs no code '
            f"by itself; import {module} first, or add --trust-model (trust=True), if you know where both are from"
        )
    # Not by getattr, at which a module may import more.
    contents = vars(sys.modules[module])
    kind = contents.get(found)
    if kind is None:
        others = [other for other, value in contents.items() if _is_degradation(value, module)]
        there = f"; it has {', '.join(others)}" if others else "; write a subclass of Levels or Degradation there"
        raise UserError(f"module {module} has no {found}{there}")
    if not _is_degradation(kind):
        what = f"a {type(kind).__name__}" if not isinstance(kind, type) else "a class of something else"
        raise UserError(f"{name} is {what}, not a degradation; name a subclass of scalespace.Levels or Degradation")
    return kind


def own_degradation(name: str, sizes: tuple[Size, ...], change_points: tuple[int, ...], timesteps: int) -> Degradation:
    """Make the degradation MODULE:CLASS, of a module that has been imported.

    Args:
        name: Its name.
        sizes: Height and width of every level, highest resolution first.
        change_points: First grid point of every level but the highest.
        timesteps: Number of timesteps, T.

    Raises:
        UserError: If it cannot be made, or is not of these sizes and timesteps.
    """
    kind = own_class(name)
    with own_faults(name):
        made: Degradation = kind(sizes, change_points, timesteps)  # pyright: ignore[reportCallIssue]
        if not isinstance(made, Degradation):
            raise UserError(f"{name} makes a {type(made).__name__}, which is no degradation; let it make one")
        if made.timesteps != timesteps:
            raise UserError(f"{name} has {made.timesteps} timesteps and was given {timesteps}; let it keep them")
        found = tuple(dict.fromkeys(made.size(t) for t in (0, *made.jumps)))
        if found != sizes:
            raise UserError(
                f"{name} has states of the sizes {found} and was given {sizes}; let it keep them, or give those"
            )
    return made


@contextmanager
def own_faults(name: str) -> Iterator[None]:
    """Around what runs the code of a user's degradation: its errors as one sentence. Those of this package stay as they are.

    Raises:
        UserError: If that code raises anything else than a ``UserError``.
    """
    try:
        yield
    except Exception as error:
        if not is_own(name) or isinstance(error, UserError) or _is_ours(error):
            raise
        raise _failed(f"the degradation {name} fails", error) from error


def _parts(name: str) -> tuple[str, str]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(
            f'"{name:.200}" is no degradation; give MODULE:CLASS for one of your own, for example mymodule:Haze'
        )
    return match[1], match[2]


def _is_degradation(value: object, module: str | None = None) -> bool:
    return isinstance(value, type) and issubclass(value, Degradation) and module in (None, value.__module__)


def _is_ours(error: BaseException) -> bool:
    trace, raised_in = error.__traceback__, ""
    while trace is not None:
        raised_in, trace = str(trace.tb_frame.f_globals.get("__name__", "")), trace.tb_next
    return isinstance(error, ValueError) and raised_in.partition(".")[0] == "scalespace"


def _failed(what: str, error: BaseException) -> UserError:
    # Whoever wrote the code wants to know what it said.
    said = " ".join(str(error).split()).rstrip(" .")
    text = f"{type(error).__name__}: {said:.{_SHOWN}}" if said else type(error).__name__
    return UserError(f"{what} ({text}); correct it")
