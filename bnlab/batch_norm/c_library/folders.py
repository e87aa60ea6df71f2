"""The folders that cache compiled libraries, and the rules by which one is trusted.

Tried in this order: `$BNLAB_CACHE`, or else `$XDG_CACHE_HOME/bnlab`, or else `~/.cache/bnlab`; the user's own folder
among the temporary files; a folder that is removed after loading. Loaded code runs with all rights of its user, so
nobody else may have been able to put it there. A file and all folders above it must belong to this user or to root and
not be writable for others, except that a sticky folder such as /tmp may be.
"""

import hashlib
import logging
import os
import platform
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bnlab.io.folder_lock import FolderLock

__all__ = ["locked", "private", "read_trusted", "room_in", "scratch_in", "trusted"]

log = logging.getLogger(__name__)

OTHERS = stat.S_IWGRP | stat.S_IWOTH
UNFINISHED = ".bnlab-unfinished-"
LARGEST = 2**26  # bytes of a library, far more than ours have
ROOM = 2**22  # the most bytes that a compiler writes
STALE = 3600  # seconds after which unfinished files of another machine are abandoned

try:
    # A relative $BNLAB_CACHE must keep its meaning when a job changes to its own folder.
    STARTED_IN = os.getcwd()
except OSError:
    STARTED_IN = ""


def trusted(*, make: bool) -> Iterator[Path]:
    """Yield the permanent folders that nobody else can write to; without `make`, only existing ones."""
    for choice in (chosen, temporary):
        try:
            path, mode = choice()
            if make or path.exists():
                yield prepared(path, mode)
        except OSError as error:
            log.log(logging.INFO if make else logging.DEBUG, "A folder for compiled code is skipped: %s", error)


@contextmanager
def private() -> Iterator[Path]:
    """Make a folder for this process alone, which is removed as soon as the library is loaded."""
    folder = tempfile.mkdtemp(prefix="bnlab-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def chosen() -> tuple[Path, int]:
    """Return the cache folder and the mode to create it with: others may read the code, as they may its source."""
    if folder := os.environ.get("BNLAB_CACHE"):
        path = Path(STARTED_IN, os.path.expanduser(folder))
    elif os.path.isabs(folder := os.environ.get("XDG_CACHE_HOME", "")):  # the XDG specification ignores relative ones
        path = Path(folder, "bnlab")
    else:
        path = Path(os.path.expanduser("~"), ".cache", "bnlab")
    if not path.is_absolute():
        raise FileNotFoundError(f"{path} depends on a folder that does not exist")
    return Path(os.path.normpath(path)), 0o755


def temporary() -> tuple[Path, int]:
    return Path(tempfile.gettempdir(), f"bnlab-{os.geteuid()}"), 0o700


def prepared(folder: Path, mode: int) -> Path:
    """Return the folder with symbolic links resolved, created if it is missing.

    Raises:
        OSError: it cannot be created, others can write to it or replace it, or nothing in it may be executed.
    """
    there = next(path for path in (folder, *folder.parents) if path.exists())
    refuse_strangers(there)  # before anything is created: they could choose where
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        with suppress(FileExistsError):  # another process was first
            missing.mkdir(mode)
    folder = Path(os.path.realpath(folder, strict=True))
    refuse_strangers(folder)
    about = folder.stat()
    if not stat.S_ISDIR(about.st_mode):
        raise NotADirectoryError(f"{folder} is not a folder")
    refuse_writers(folder, about)
    if os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise PermissionError(f"nothing in {folder} may be executed")
    return folder


def refuse_strangers(path: Path) -> None:
    """Raise PermissionError if another user can decide where this path leads."""
    for part in (path, *path.parents):
        about = part.lstat()
        if stat.S_ISLNK(about.st_mode):
            refuse_writers(part, about, mask=0)
            refuse_strangers(Path(os.path.normpath(part.parent / os.readlink(part))))
        else:
            refuse_writers(part, about, mask=0 if about.st_mode & stat.S_ISVTX else OTHERS)


def refuse_writers(path: Path, about: os.stat_result, mask: int = OTHERS) -> None:
    if about.st_uid not in (0, os.geteuid()) or about.st_mode & mask:
        raise PermissionError(
            f"others can write to {path}: its owner is {about.st_uid}, {stat.filemode(about.st_mode)}"
        )


def read_trusted(path: Path) -> bytes:
    """Read a file in such a folder.

    Raises:
        OSError: it cannot be read, is no regular file, has more than `LARGEST` bytes, or others can write to it.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # do not wait for a pipe
    try:
        about = os.fstat(handle)
        refuse_writers(path, about)
        if not stat.S_ISREG(about.st_mode) or about.st_size > LARGEST:
            raise OSError(f"{path} is too large or not a regular file")
        with open(handle, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path, seconds: float) -> Iterator[bool]:
    """Lock the folder against other processes of this machine; yield False if the file system has no locks.

    Raises:
        TimeoutError: another process still holds the lock after `seconds`.
    """
    try:
        lock = FolderLock(folder, wait_s=seconds)
    except BlockingIOError:
        raise TimeoutError("another process has not finished compiling it") from None
    with lock:
        yield lock.is_held


@contextmanager
def scratch_in(folder: Path, *, alone: bool) -> Iterator[Path]:
    """Make a folder for unfinished files; first remove abandoned ones, which are all of this machine's if `alone`."""
    machine = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
    here = f"{UNFINISHED}{machine}-"
    for left in folder.glob(f"{UNFINISHED}*"):
        with suppress(OSError):
            if (alone and left.name.startswith(here)) or time.time() - left.stat().st_mtime > STALE:
                shutil.rmtree(left)
    scratch = Path(tempfile.mkdtemp(prefix=here, dir=folder))
    try:
        room_in(scratch)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def room_in(folder: Path) -> None:
    """Raise OSError if there is no room for a compiler's files, which every compiler reports in its own way."""
    place = folder / "room"
    try:
        with open(place, "wb") as file:
            file.write(bytes(ROOM))
            file.flush()
            os.fsync(file.fileno())
    finally:
        place.unlink(missing_ok=True)
