"""Undo a job's changes to its process, in which other jobs run later."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["ending_forks", "in_root_folder", "leave_removed_folder", "restored"]

try:
    _STARTED_IN = Path.cwd()
except OSError:
    _STARTED_IN = Path(os.sep)
_STREAMS = {1: "stdout", 2: "stderr"}


@contextmanager
def ending_forks() -> Iterator[None]:
    """End any process forked within that leaves the block, so that it does not continue its parent's work."""
    process = os.getpid()
    code = 0
    try:
        yield
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
        raise
    finally:
        if os.getpid() != process:
            os._exit(code & 0xFF)


def leave_removed_folder() -> bool:
    """If the current folder was removed, move to the nearest parent that exists; return whether it was removed.

    Hydra, Lightning and BLAS libraries ask for the current folder at any time, and fail without one.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        for folder in (*_STARTED_IN.parents, Path(os.sep)):  # the root has no parents and may be the first folder
            with suppress(OSError):
                os.chdir(folder)
                return True
    return False


@contextmanager
def in_root_folder() -> Iterator[None]:
    """Work in the root folder, which nobody removes, while running code that fails if the current folder is removed."""
    with _same_folder():
        os.chdir(os.sep)
        yield


@contextmanager
def restored() -> Iterator[None]:
    """Restore the current folder, the signal handlers, stdout and stderr, and end any fork of this process."""
    with _same_streams(), _same_signals(), _same_folder(), ending_forks():
        yield


@contextmanager
def _same_folder() -> Iterator[None]:
    leave_removed_folder()
    # A descriptor survives renaming; with O_PATH it also works for a folder that may not be listed.
    folder = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))
    try:
        yield
    finally:
        os.fchdir(folder)
        os.close(folder)
        leave_removed_folder()


@contextmanager
def _same_signals() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set them
        yield
        return
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in signal.valid_signals()}
    timer = signal.getitimer(signal.ITIMER_REAL)
    try:
        yield
    finally:
        if timer == (0, 0):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


@contextmanager
def _same_streams() -> Iterator[None]:
    streams = {number: getattr(sys, name) for number, name in _STREAMS.items()}
    copies: dict[int, int] = {}
    for number in _STREAMS:
        with suppress(OSError):  # it was closed before
            copies[number] = os.dup(number)
    try:
        yield
    finally:
        for number, copy in copies.items():
            os.dup2(copy, number)
            os.close(copy)
        for number, stream in streams.items():
            if stream is not None and stream.closed:
                stream = _reopened(number, stream)
            setattr(sys, _STREAMS[number], stream)


def _reopened(number: int, stream: Any) -> Any:
    """Return a replacement for a closed stream: the same descriptor, or the null device if it was another file."""
    if getattr(stream, "name", None) == f"<{_STREAMS[number]}>":
        return open(number, "w", closefd=False, buffering=1)
    return open(os.devnull, "w")
