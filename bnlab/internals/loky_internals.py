"""loky's private names, and what it does otherwise than a sweep needs: how it starts and kills a process.

Delete `in_memory` when a process that is killed while it starts does not hold up loky, `kill_tree` when loky kills
without starting a process for it, and `start_trackers` when its trackers ignore SIGHUP as they ignore SIGINT.
"""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["amend", "in_memory", "kill_tree", "processes_of", "start_trackers"]


@contextmanager
def in_memory(content: bytes) -> Iterator[str | bytes]:
    """Yields the path of a file with `content`, for processes of this one's user; itself where there is no such file.

    What a new process is told by loky has to fit into a pipe: where it is more, and the process is killed before it has
    read all, the one that starts it waits for ever.
    """
    if not hasattr(os, "memfd_create"):
        yield content
        return
    with open(os.memfd_create("bnlab-sweep"), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/{os.getpid()}/fd/{file.fileno()}"


def processes_of(executor: Any) -> Mapping[int, Any]:
    """The processes of an executor by their pid, as long as it has any; none where they cannot be known.

    Without them a process whose children hold its pipe open is waited for, and a Ctrl-C does not let it finish.
    """
    processes: Mapping[int, Any] = getattr(executor, "_processes", None) or {}
    return processes


def amend() -> None:
    """Let loky kill by `kill_tree`: its own way starts `pgrep`, which fails where no process can be started."""
    from loky import process_executor

    if Path("/proc/self/stat").exists() and hasattr(process_executor, "kill_process_tree"):
        process_executor.kill_process_tree = kill_tree


def kill_tree(process: Any, use_psutil: bool = True) -> None:
    """Kill it and all that it has forked, and wait for its end."""
    for pid in reversed(list(_with_descendants(process.pid))):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    process.join()


def _with_descendants(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has ended
            for child in children.read_text().split():
                yield from _with_descendants(int(child))


def start_trackers() -> None:
    """Start the processes that clear away after this one, so that a SIGHUP to the whole group does not end them.

    Others would take their place, and complain of all that they were never told.
    """
    if threading.current_thread() is not threading.main_thread():  # no other may set how a signal is answered
        return
    from multiprocessing import resource_tracker as pythons

    from loky.backend import resource_tracker as lokys

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        for tracker in (lokys, pythons):
            tracker.ensure_running()
    finally:
        signal.signal(signal.SIGHUP, before)
