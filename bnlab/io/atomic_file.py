"""Atomic files: written under a temporary name beside the target, then renamed, so that no reader sees half of one.

This suffices to survive a kill. To survive a power cut, `to_disk` also waits for the disk, as a run does for its
results before it reports them. During training, the system decides when the newest epochs are on disk.
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
    """Replace `path` by `content` in one step, or leave it unchanged if that fails.

    Raises:
        OSError: writing failed; unlike the system's own error, it always names `path`.
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
    """Remove the temporary files of killed processes; the caller knows that nobody is writing `paths` now."""
    names: dict[Path, list[str]] = {}
    for path in paths:
        names.setdefault(path.parent, []).append(re.escape(path.name))
    for folder, of_folder in names.items():
        unfinished = re.compile(rf"\.({'|'.join(of_folder)})\.[a-z0-9_]{{8}}")  # mkstemp's pattern
        for entry in list(os.scandir(folder)) if folder.is_dir() else ():
            if unfinished.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                os.unlink(entry)


def to_disk(folders: Iterable[Path]) -> None:
    """Wait until these folders and all files in them would survive a power cut.

    syncfs(2) is called once per file system, because syncing the hundreds of files of a stack one by one is slow.
    Systems without it sync file by file.

    Raises:
        OSError: the disk did not accept the data.
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
    except PermissionError:  # a parent folder of another user's
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
