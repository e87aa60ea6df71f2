"""Files that a reader never sees half of: written to a temporary name beside the target, then renamed.

That alone survives a kill. What is to survive a power cut waits for the disk as well, by `to_disk`: a run's results do
when the run has ended, before anybody is told of them. While it trains, the newest epochs are left to the system.
"""

import ctypes
import os
import re
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["remove_unfinished", "to_disk", "write_bytes", "write_text"]


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Replace `path` by `content` in one step, or leave it as it was if that fails.

    Raises:
        OSError: naming `path`, which a full disk does not by itself.
    """
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 would hide results from colleagues
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode())


def remove_unfinished(paths: Iterable[Path]) -> None:
    """Remove what killed processes left of writing these; only for who knows that nobody is writing them now."""
    names: dict[Path, list[str]] = {}
    for path in paths:
        names.setdefault(path.parent, []).append(re.escape(path.name))
    for folder, of_folder in names.items():
        unfinished = re.compile(rf"\.({'|'.join(of_folder)})\.[a-z0-9_]{{8}}")  # as mkstemp names them
        for entry in list(os.scandir(folder)) if folder.is_dir() else ():
            if unfinished.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                os.unlink(entry)


def to_disk(folders: Iterable[Path]) -> None:
    """Wait until all that was written in these folders, and the folders themselves, would survive a power cut.

    By syncfs(2), once a file system: waiting for file by file takes as many turns of the disk as there are files, and
    a stack of networks writes hundreds. Where there is no syncfs, file by file.

    Raises:
        OSError: the disk did not take it.
    """
    for folder in {os.stat(folder).st_dev: folder for folder in folders}.values() if _syncfs() else folders:
        if (sync := _syncfs()) is not None:
            handle = os.open(folder, os.O_RDONLY)
            try:
                if sync(handle):
                    code = ctypes.get_errno()
                    raise OSError(code, os.strerror(code), str(folder))
            finally:
                os.close(handle)
        else:
            for path in (*folder.rglob("*"), folder, *folder.absolute().parents):
                _fsync(path)


@cache
def _syncfs() -> Any:
    try:
        return ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError, TypeError):  # not on Linux
        return None


def _fsync(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder above that is another's
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
