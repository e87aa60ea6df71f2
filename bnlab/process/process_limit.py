"""The limit of a user's processes and threads (RLIMIT_NPROC, or pids.max of a container), checked in advance.

Libraries react badly to it: OpenBLAS sends the process a SIGINT, and libgomp ends it with exit code 1. So check for
room before starting threads or processes.
"""

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from bnlab.errors import UserError, one_line

__all__ = ["NoRoomError", "is_process_limit", "num_arithmetic_threads", "report_process_limit", "require_room"]

_OTHERS = 4  # besides the computing threads: the progress bar and a compiler


class NoRoomError(UserError):
    """No more processes or threads can be created at present."""

    is_outside = True


def num_arithmetic_threads() -> int:
    """Return how many threads OpenBLAS and OpenMP each use, including the caller's."""
    asked_for = [os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")]
    numbers = [int(text) for text in asked_for if text.isdigit()]
    return max(numbers or [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1])


def require_room(for_what: str, num_tasks: int | None = None, setting: str = "OMP_NUM_THREADS") -> None:
    """Check that `num_tasks` threads can be started, by starting and ending them.

    Args:
        for_what: what will start them, as the subject of "needs".
        num_tasks: the number of processes and threads together; None for those of one training.
        setting: the setting that reduces their number.
    Raises:
        NoRoomError: some cannot be started.
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
            f"{for_what} needs {num_tasks} more processes and threads, but the system lets this user start only "
            f"{len(threads)}: {_way_out(setting)}."
        ) from error
    finally:
        end.set()
        for thread in threads:
            if thread.is_alive():  # a thread whose start was interrupted is not alive, and cannot be joined
                thread.join()


def is_process_limit(error: BaseException) -> bool:
    """Whether Python or `require_room` raised `error` because no process or thread could be started."""
    if isinstance(error, NoRoomError):
        return True
    if isinstance(error, BlockingIOError):  # raised by a fork, not by a stream that would block
        return error.filename is None and not hasattr(error, "characters_written")
    return type(error) is RuntimeError and str(error).startswith("can't start new thread")


@contextmanager
def report_process_limit() -> Iterator[None]:
    """Turn the error of a limit reached within into a `NoRoomError`, for `report_user_errors` to print in one line."""
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
