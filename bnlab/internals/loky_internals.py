"""loky's private names, and replacements for how it starts and kills processes.

Delete `in_memory` when loky survives a process that is killed while it starts, `kill_tree` when loky kills processes
without starting another one, and `start_trackers` when its trackers ignore SIGHUP as they ignore SIGINT.
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
    """Yield the path of a file in memory with `content`, or `content` itself if this system has no such files.

    What loky sends to a new process must fit into a pipe. If it does not, and the process is killed before it has read
    everything, its parent waits forever.
    """
    if not hasattr(os, "memfd_create"):
        yield content
        return
    with open(os.memfd_create("bnlab-sweep"), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/{os.getpid()}/fd/{file.fileno()}"


def processes_of(executor: Any) -> Mapping[int, Any]:
    """Return the processes of an executor by pid; none if they are not known.

    If they are not known, a dead process whose children keep its pipe open is waited for, and on Ctrl-C a job is killed
    before it can save its state.
    """
    processes: Mapping[int, Any] = getattr(executor, "_processes", None) or {}
    return processes


def amend() -> None:
    """Let loky kill by `kill_tree`: its own function starts `pgrep`, which fails when no process can be started."""
    from loky import process_executor

    if Path("/proc/self/stat").exists() and hasattr(process_executor, "kill_process_tree"):
        process_executor.kill_process_tree = kill_tree


def kill_tree(process: Any, use_psutil: bool = True) -> None:
    """Kill a process and its descendants, and wait for its end."""
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
    """Start the resource trackers so that a SIGHUP to the process group does not end them.

    New trackers would replace them, and warn of resources that they do not know.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set signal handlers
        return
    from multiprocessing import resource_tracker as pythons

    from loky.backend import resource_tracker as lokys

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        for tracker in (lokys, pythons):
            tracker.ensure_running()
    finally:
        signal.signal(signal.SIGHUP, before)
