"""The limit of a user's processes and threads (RLIMIT_NPROC, or pids.max of a container), met before it is reached.

Libraries have ways of their own to answer it: OpenBLAS sends the process a SIGINT, libgomp ends it with exit code 1. So
whoever is going to start threads or processes asks for room first.
"""

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from bnlab.errors import UserError, one_line

__all__ = ["NoRoomError", "is_process_limit", "num_arithmetic_threads", "report_process_limit", "require_room"]

_OTHERS = 4  # beside those of the arithmetic: of the bar, and of a compiler


class NoRoomError(UserError):
    """No more processes or threads can be created; at another time they may."""

    is_outside = True


def num_arithmetic_threads() -> int:
    """How many OpenBLAS and OpenMP each start when they are first used, that of the caller included."""
    asked_for = [os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")]
    numbers = [int(text) for text in asked_for if text.isdigit()]
    return max(numbers or [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1])


def require_room(for_what: str, num_tasks: int | None = None, setting: str = "OMP_NUM_THREADS") -> None:
    """Start as many threads, to see that it can be done, and end them.

    Args:
        for_what: is going to start them, as the subject of "needs".
        num_tasks: processes and threads, which count alike; None for those of one training.
        setting: with which fewer are needed.
    Raises:
        NoRoomError: they cannot all be started.
    """
    if num_tasks is None:
        num_tasks = 3 * (num_arithmetic_threads() - 1) + _OTHERS
    end = threading.Event()
    threads = []
    try:
        for _ in range(num_tasks):
            threads.append(threading.Thread(target=end.wait, daemon=True))
            threads[-1].start()
    except RuntimeError as error:
        if not is_process_limit(error):
            raise
        threads.pop()
        raise NoRoomError(
            f"{for_what} needs {num_tasks} more processes and threads, of which the system lets this user start "
            f"{len(threads)}: {_way_out(setting)}."
        ) from error
    finally:
        end.set()
        for thread in threads:
            if thread.is_alive():  # one whose start was interrupted is not, and cannot be waited for
                thread.join()


def is_process_limit(error: BaseException) -> bool:
    """Whether `error` is what Python or `require_room` raises where no process or thread can be started."""
    if isinstance(error, NoRoomError):
        return True
    if isinstance(error, BlockingIOError):  # of a fork, not of a stream that takes no more
        return error.filename is None and not hasattr(error, "characters_written")
    return type(error) is RuntimeError and str(error).startswith("can't start new thread")


@contextmanager
def report_process_limit() -> Iterator[None]:
    """Within `report_user_errors`: a limit that is met on the way is a line as well."""
    try:
        yield
    except (BlockingIOError, RuntimeError) as error:
        if not is_process_limit(error):
            raise
        raise NoRoomError(f"No more processes or threads can be started ({one_line(error)}): {_way_out()}.") from error


def _way_out(setting: str = "OMP_NUM_THREADS") -> str:
    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    said = "" if limit == resource.RLIM_INFINITY else f" (`ulimit -u` is {limit})"
    return f"raise that limit{said}, end others of its processes, or choose a smaller {setting}"
