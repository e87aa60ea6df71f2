"""Mistakes a user can make: one clear line on stderr and exit code 2, never a traceback."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bnlab.text.concealing import conceal

__all__ = ["Refused", "UserError", "one_line", "reason", "report_user_errors", "user_errors"]


class UserError(ValueError):
    """What is wrong, the value, and the way out, in one line."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback, whose lines of other libraries hide the one that helps."""
        return [f"{type(self).__name__}: {self}"]


class Refused(BaseException):  # no Exception, which Hydra would make a warning of
    """Carries a `UserError` out of a callback of Hydra's."""

    def __init__(self, error: UserError) -> None:
        self.error = error


# What Hydra and OmegaConf add for their own developers.
_INTERNAL = re.compile(r"\s*(full_key:|object_type=|reference_type=|Config search path:|\tprovider=).*")


_OF_WORKERS = ("_RemoteTraceback", "RemoteTraceback")  # the traceback of another process, as a cause


def one_line(error: BaseException) -> str:
    """The message of `error` and, where a library wrapped it, of its cause, without line breaks."""
    text = _message(error)
    cause = error.__cause__
    if cause is not None and type(cause).__name__ not in _OF_WORKERS and _message(cause) not in text:
        text = f"{text}: {_message(cause)}"
    return text


def reason(error: BaseException) -> str:
    """`one_line`, after the name of the error: why a job failed."""
    return f"{type(error).__name__}: {one_line(error)}"


def _message(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning's way to pass it on
            return _message(error.__context__)
        return f"called sys.exit({'' if error.code is None else repr(error.code)})"
    if isinstance(error, KeyboardInterrupt):
        return "raised by code, not by a signal"
    try:
        lines = [line for line in str(error).splitlines() if not _INTERNAL.fullmatch(line)]
    except Exception as second:
        return f"its message cannot be read, which raised {type(second).__name__}"
    text = conceal(" ".join(" ".join(lines).split()) or type(error).__name__)
    # A lone surrogate fits into no file, and a control character is for the terminal to obey.
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


@contextmanager
def user_errors(context: str = "") -> Iterator[None]:
    """Turn what libraries raise while a configuration is put into effect into a `UserError`.

    Only for code that runs before any training: what fails there comes from what the user asked for. `context` opens
    the line. Of an error that Hydra wrapped while calling a `_target_`, the line tells the cause.
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


# Read when the program starts: `bnlab.train` sets the variable itself, to receive what Hydra would print.
WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"


@contextmanager
def report_user_errors() -> Iterator[None]:
    """Print a `UserError` as one line and exit with 2; with HYDRA_FULL_ERROR=1 let the traceback through."""
    try:
        yield
    except UserError as error:
        if WANTS_TRACEBACK:
            raise
        line = " ".join(line.strip() for line in str(error).splitlines())  # blanks in names stay
        print(conceal(line), file=sys.stderr)
        raise SystemExit(2) from None
