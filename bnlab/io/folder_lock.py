"""Replaces filelock, which locks a file of its own instead of the folder; delete when it can lock a folder.

A folder has one owner at a time. The lock ends with its owner, whatever ends that.
"""

import logging
import os
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

__all__ = ["FolderLock", "is_locked"]

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.05

_held: set[int] = set()  # file descriptors of the locks of this process


def _close_copies() -> None:
    """Close the descriptors in a forked child, which would otherwise keep the lock when its parent is killed."""
    for handle in _held:
        with suppress(OSError):
            os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_copies)


class FolderLock:
    """Keep out every other process, and every other lock of this process, until `release`.

    The folder itself is locked, by flock(2) on a descriptor of it: no file is left behind, and the kernel releases the
    lock of a killed process. Over NFS, a lock holds on one machine only. If the file system does not support locks,
    nobody is kept out, and a line in the log says so.

    Args:
        folder: an existing folder.
        wait_s: how long to wait for another owner.
    Attributes:
        is_held: false if the file system does not support locks.
    Raises:
        BlockingIOError: the folder has another owner.
        OSError: the folder does not exist or cannot be read.
    """

    def __init__(self, folder: Path, wait_s: float = 0.0) -> None:
        self._folder = folder
        self._process = os.getpid()
        end = time.monotonic() + wait_s
        while True:
            self._handle = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
            _held.add(self._handle)
            try:
                self.is_held = _lock(self._handle, folder, end)
                if self.is_in_place():  # otherwise, it was replaced between opening and locking
                    return
            except BaseException:
                self.release()
                raise
            self.release()

    def is_in_place(self) -> bool:
        """Whether the path still leads to the locked folder, which may have been renamed or removed."""
        try:
            return os.path.samestat(os.stat(self._folder), os.fstat(self._handle))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Release the lock; do nothing the second time, or in a forked child, which does not own the lock."""
        if self._process != os.getpid() or self._handle not in _held:
            return
        import fcntl  # exists only on POSIX

        with suppress(OSError):  # closing is not enough if a child process has a copy of the descriptor
            fcntl.flock(self._handle, fcntl.LOCK_UN)
        _held.discard(self._handle)
        os.close(self._handle)
        self._handle = -1

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def is_locked(folder: Path) -> bool:
    """Whether another process, or a lock of this one, owns the folder; a missing folder has no owner."""
    try:
        FolderLock(folder).release()
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _lock(handle: int, folder: Path, end: float) -> bool:
    import fcntl

    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
            time.sleep(_LOOK_EVERY_S)
        except OSError as error:
            _tell_once(os.fstat(handle).st_dev, folder, error.strerror)
            return False
        else:
            return True


@cache
def _tell_once(device: int, folder: Path, reason: str) -> None:
    log.warning("%s cannot be locked (%s): see that no other process writes there.", folder, reason)
