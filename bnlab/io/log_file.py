"""The log file of a run."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bnlab.text.concealing import conceal

__all__ = ["LINE", "Concealing", "LogFile", "logging_to"]


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


LINE = Concealing("%(asctime)s %(levelname)s %(name)s: %(message)s")  # as in conf/hydra/job_logging/bnlab.yaml


@contextmanager
def logging_to(file: Path) -> Iterator[None]:
    """Append what is logged to `file`, as Hydra does for a run of its own."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = LogFile(file, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(LINE)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()
