"""Read a file from a folder that anybody may have made: only regular files that fit into memory."""

import errno
import os
import stat
from pathlib import Path

__all__ = ["read_bytes", "read_text"]

_MOST_BYTES = 1 << 28  # the size of a table of a million epochs


def read_bytes(path: Path, most: int = _MOST_BYTES) -> bytes:
    """Read the content of `path`.

    Reading a pipe could wait forever, and a device or a sparse file could fill the memory.

    Raises:
        OSError: it cannot be read; IsADirectoryError for a folder.
        ValueError: it is neither a file nor a folder, or larger than `most` bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # for example a socket, or a link to itself
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
    """Read `path` as UTF-8, like `read_bytes`; text in another encoding is a ValueError, too."""
    return read_bytes(path, most).decode()
