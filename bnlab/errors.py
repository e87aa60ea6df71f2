"""Mistakes a user can make: one clear line on stderr and exit code 2, never a traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["UserError", "one_line", "report_user_errors", "user_errors"]


class UserError(ValueError):
    """What is wrong, the value, and the way out, in one line."""


def one_line(error: BaseException) -> str:
    """The message of `error` and, where a library wrapped it, of its cause, without line breaks."""
    text = str(error) or type(error).__name__
    if error.__cause__ is not None and str(error.__cause__) not in text:
        text = f"{text}: {error.__cause__}"
    return " ".join(text.split())


@contextmanager
def user_errors(context: str = "") -> Iterator[None]:
    """Turn what libraries raise while a configuration is put into effect into a `UserError`.

    Only for code that runs before any training: what fails there comes from what the user asked for. `context` opens
    the line.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{context}{one_line(error)}") from error


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
        print(" ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from None
