"""The log file of a run."""

import logging
import sys
from contextlib import suppress

from bnlab.text.concealing import conceal

__all__ = ["Concealing", "LogFile"]


class Concealing(logging.Formatter):
    """Format records without passwords and keys, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return conceal(super().format(record))


class LogFile(logging.FileHandler):
    """Ignore lines that cannot be written, for each of which a `FileHandler` prints a traceback.

    Whoever writes the results reports a full disk. Lines are buffered until there is room.
    """

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()

    def close(self) -> None:
        with suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the name in the logging module
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
