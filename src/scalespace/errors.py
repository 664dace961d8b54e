"""The one kind of error that is written for the user and not for the programmer."""

__all__ = ["UserError"]


class UserError(ValueError):
    """An error whose message is one sentence for the user: what is wrong, where, what to do.

    The command line prints the message alone, without a traceback, and exits with code 2.
    """
