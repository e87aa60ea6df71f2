"""Retries trials that ended for outside reasons, and decides when to give up."""

import threading
from collections import Counter

from bnlab.search.study.trials import Trial
from bnlab.status import Status

__all__ = ["Retries"]

AT_ONCE = 2  # retries of a trial by the same process
IN_A_ROW = 3  # this many different trials lost in succession stop a sweep

_Place = tuple[int, int]  # number of a configuration and of its seed


class Retries:
    """Counts ends by place, (point, repeat), which all tries of a trial share.

    Attributes:
        error: that of the last trial that ended from outside; empty before.
    """

    def __init__(self, num_parallel: int) -> None:
        self._in_a_row = max(IN_A_ROW, num_parallel + 1)  # one cause can end all trials that run in parallel
        self._num_ends: Counter[_Place] = Counter()
        self._row: set[_Place] = set()
        self._again: list[int] = []
        self._left: set[_Place] = set()
        self._lock = threading.Lock()
        self.error = ""

    def ended(self, trial: Trial, *, is_lost: bool) -> None:
        """Count the end of `trial`, which `is_lost` if its error is from outside."""
        place = trial.place, trial.repeat
        with self._lock:
            if not is_lost:
                if trial.status is not Status.INTERRUPTED:
                    self._row.clear()
                return
            self.error = trial.error
            self._row.add(place)
            self._num_ends[place] += 1
            if self._num_ends[place] <= AT_ONCE:
                self._again.append(trial.number)
            else:
                self._left.add(place)

    def take(self) -> list[int]:
        """Return the numbers of the trials to be tried again now."""
        with self._lock:
            again, self._again = self._again, []
            return again

    @property
    def is_hopeless(self) -> bool:
        return len(self._row) >= self._in_a_row

    @property
    def num_left(self) -> int:
        """Return the number of trials left for the sweep when it is resumed."""
        return len(self._left)
