"""The file that a run's log goes to."""

import logging
import sys
from contextlib import suppress

from bnlab.text.concealing import conceal

__all__ = ["Concealing", "LogFile"]


class Concealing(logging.Formatter):
    """Without passwords and keys, in tracebacks either."""

    def format(self, record: logging.LogRecord) -> str:
        return conceal(super().format(record))


class LogFile(logging.FileHandler):
    """Says nothing where a line cannot be written, which a `FileHandler` tells in a traceback for each.

    What cannot be written besides is for who writes the results to tell. Lines wait in memory for room.
    """

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()

    def close(self) -> None:
        with suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
