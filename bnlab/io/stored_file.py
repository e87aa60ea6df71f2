"""Reading a file of a folder that anybody may have made: a file, of a size that memory has room for."""

import errno
import os
import stat
from pathlib import Path

__all__ = ["read_bytes", "read_text"]

_MOST_BYTES = 1 << 28  # a table of a million epochs


def read_bytes(path: Path, most: int = _MOST_BYTES) -> bytes:
    """The content of `path`.

    A pipe would be waited for without end, and a device, or a file that is nearly all holes, would fill the memory.

    Raises:
        OSError: it cannot be read; IsADirectoryError for a folder.
        ValueError: it is neither a file nor a folder, or has more than `most` bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link to itself, a socket
            raise ValueError(f"{path.name} is not a file") from error
        raise
    with open(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError(f"{path.name} is not a file")
        if about.st_size > most:
            raise ValueError(f"{path.name} has more than {most} bytes")
        return file.read()


def read_text(path: Path, most: int = _MOST_BYTES) -> str:
    """`read_bytes` in UTF-8; a ValueError, too, where it is something else."""
    return read_bytes(path, most).decode()
