"""Let a command continue when nobody reads its output any more, as in `| head -1`."""

import io
import os
import sys
from typing import Any

__all__ = ["outlast_readers"]


class _Outlasting(io.FileIO):
    """A descriptor that is redirected to the null device as soon as its reader is gone, for all its writers."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


def outlast_readers() -> None:
    """Let stdout and stderr survive the loss of their readers, if they belong to this process."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        try:
            is_own = isinstance(stream, io.TextIOWrapper) and stream.fileno() == descriptor
        except (OSError, ValueError):  # it was closed, or is no file
            continue
        if is_own:
            stream.flush()
            raw = _Outlasting(descriptor, "w", closefd=False)
            raw.name = stream.name  # other code reads it
            wrapped = io.TextIOWrapper(
                io.BufferedWriter(raw),
                encoding=stream.encoding,
                errors=stream.errors,
                # Not write_through, which would keep a line in the buffer below
                line_buffering=stream.line_buffering or name == "stderr",
            )
            setattr(sys, name, wrapped)
