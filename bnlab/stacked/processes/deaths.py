"""Count the processes that were killed, for example by the kernel for lack of memory, to give up in time."""

__all__ = ["MOST_DEATHS", "NO_PROCESS", "Deaths", "LostWorkersError"]

MOST_DEATHS = 8  # deaths of processes in a row
NO_PROCESS = "no process can be started for the stacks: the limit of processes is reached (`ulimit -u`)"


class LostWorkersError(RuntimeError):
    """So many processes were killed in a row that others would probably be killed, too."""

    is_outside = True


class Deaths:
    """Counts the deaths since the last job that ended."""

    def __init__(self) -> None:
        self._number = 0

    def reset(self) -> None:
        """Start again from zero, because a job has ended."""
        self._number = 0

    def count(self, code: int | None, processes: str) -> None:
        """Count one of `processes`, which ended with exit `code`, None if unknown.

        Raises:
            LostWorkersError: it is one too many.
        """
        ended = "ended" if code is None else f"ended with exit code {code}"
        self._count(
            f"{MOST_DEATHS} {processes} in a row {ended}: if memory is short, choose a smaller hydra.launcher.n_jobs"
        )

    def count_unforked(self) -> None:
        """Count a failure to start a process while none is running.

        Raises:
            LostWorkersError: it is one too many.
        """
        self._count(NO_PROCESS)

    def _count(self, otherwise: str) -> None:
        self._number += 1
        if self._number >= MOST_DEATHS:
            raise LostWorkersError(otherwise)
