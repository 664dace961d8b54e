"""Errors for the user and not for the programmer: what they may quote of other errors, and of names."""

from __future__ import annotations

import sys

__all__ = ["Stopped", "ToldError", "UserError", "cause", "printable"]

_FACTUAL = frozenset({"scalespace", "PIL", "safetensors", "safetensors_rust"}) | sys.stdlib_module_names


class UserError(ValueError):
    """An error whose message is one sentence for the user: what is wrong, where, what to do.

    The command line prints the message alone, without a traceback, and exits with code 2.
    """


class ToldError(UserError):
    """What ends a process because another one has failed, which tells the user why; the command line prints nothing."""


class Stopped(Exception):  # noqa: N818  # It is no error.
    """Work that was stopped at the user's wish with everything saved. The same command goes on.

    The command line prints the message alone and exits with code 75, EX_TEMPFAIL of sysexits.h: to be tried again.
    """


def cause(error: BaseException) -> str:
    """What a sentence for the user may say about another error, in one line.

    The message is passed on only where it comes from this package, Python's standard library, Pillow or safetensors, which
    state facts. Other libraries give advice, some of it unsafe: ``torch.load`` tells its caller to set weights_only=False,
    which runs whatever a damaged or foreign file holds. Of those only the error's type is named.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    raised_in = ""
    trace = error.__traceback__
    while trace is not None:
        raised_in, trace = str(trace.tb_frame.f_globals.get("__name__", "")), trace.tb_next
    # What compiled code raises has no frame of its own: its type tells where it is from.
    origins = {name.partition(".")[0] for name in (raised_in, type(error).__module__) if name}
    # A sentence of ours goes on after it.
    text = " ".join(str(error).split()).rstrip(" .?!")
    return text if text and origins <= _FACTUAL else type(error).__name__


def printable(text: str) -> str:
    """A text that can be printed and drawn anywhere: what is no letter, sign or plain space in it is written as its code.

    Names of files may hold line ends, what moves a terminal, and bytes that are no text, which Python keeps as surrogates.
    """
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
