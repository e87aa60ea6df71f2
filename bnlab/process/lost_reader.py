"""Whoever reads what a command prints may leave, as `head -1` does: the command goes on, and what it computes stays."""

import io
import os
import sys
from typing import Any

__all__ = ["outlast_readers"]


class _Outlasting(io.FileIO):
    """A descriptor that leads to nowhere from when nobody reads it, for whoever else writes to it as well."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


def outlast_readers() -> None:
    """Let stdout and stderr outlast whoever reads them, where they are this process's own."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        try:
            is_own = isinstance(stream, io.TextIOWrapper) and stream.fileno() == descriptor
        except (OSError, ValueError):  # it was closed, or is no file
            continue
        if is_own:
            stream.flush()
            raw = _Outlasting(descriptor, "w", closefd=False)
            raw.name = stream.name  # by which others know it
            wrapped = io.TextIOWrapper(
                io.BufferedWriter(raw),
                encoding=stream.encoding,
                errors=stream.errors,
                # Not write_through, by which a line would not leave the buffer below
                line_buffering=stream.line_buffering or name == "stderr",
            )
            setattr(sys, name, wrapped)
