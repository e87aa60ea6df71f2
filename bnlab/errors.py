"""Errors that a user can cause: one clear line on stderr and exit code 2, never a traceback."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bnlab.text.concealing import conceal

__all__ = ["Refused", "UserError", "error_text", "one_line", "report_user_errors", "user_errors"]


class UserError(ValueError):
    """An error that the user can mend; its line states the rule, the value and the way out."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows instead of a traceback, whose length hides the message."""
        return [f"{type(self).__name__}: {self}"]


class Refused(BaseException):  # not an Exception, which Hydra would turn into a warning
    """Carry a `UserError` out of a callback of Hydra's."""

    def __init__(self, error: UserError) -> None:
        self.error = error


# Lines that Hydra and OmegaConf add for their own developers.
_INTERNAL = re.compile(r"\s*(full_key:|object_type=|reference_type=|Config search path:|\tprovider=).*")


_OF_WORKERS = ("_RemoteTraceback", "RemoteTraceback")  # causes that hold the traceback of another process


def one_line(error: BaseException) -> str:
    """Return the message of `error` and, if a library wrapped it, of its cause, without line breaks."""
    text = _message(error)
    cause = error.__cause__
    if cause is not None and type(cause).__name__ not in _OF_WORKERS and _message(cause) not in text:
        text = f"{text}: {_message(cause)}"
    return text


def error_text(error: BaseException) -> str:
    """Return the error of a failed job as text: its name and `one_line`."""
    return f"{type(error).__name__}: {one_line(error)}"


def _message(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        if isinstance(error.__context__, KeyboardInterrupt):  # as Lightning passes it on
            return _message(error.__context__)
        return f"called sys.exit({'' if error.code is None else repr(error.code)})"
    if isinstance(error, KeyboardInterrupt):
        return "raised by code, not by a signal"
    try:
        lines = [line for line in str(error).splitlines() if not _INTERNAL.fullmatch(line)]
    except Exception as second:
        return f"its message cannot be read, which raised {type(second).__name__}"
    text = conceal(" ".join(" ".join(lines).split()) or type(error).__name__)
    # Files cannot hold a lone surrogate, and a terminal would obey a control character.
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


@contextmanager
def user_errors(context: str = "") -> Iterator[None]:
    """Turn what libraries raise while a configuration is put into effect into a `UserError`.

    Use this only around code that runs before any training: whatever fails there results from the user's settings.
    `context` begins the line. If Hydra wrapped the error while calling a `_target_`, the line states the cause.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        told = one_line(error)
        if told.startswith("Error in call to target"):
            told = one_line(cause)
        elif (target := re.match(r"Error locating target '([^']+)'", told)) is not None:
            told = f"`_target_` is {target[1]!r}, which cannot be imported ({one_line(cause)}): correct the name."
        raise UserError(f"{context}{told}") from error


# Read at the start, because `bnlab.train` later sets the variable itself to receive what Hydra would print.
WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"


@contextmanager
def report_user_errors() -> Iterator[None]:
    """Print a `UserError` as one line and exit with 2; with HYDRA_FULL_ERROR=1 let the traceback through."""
    try:
        yield
    except UserError as error:
        if WANTS_TRACEBACK:
            raise
        line = " ".join(line.strip() for line in str(error).splitlines())  # keeps blanks within names
        print(conceal(line), file=sys.stderr)
        raise SystemExit(2) from None
