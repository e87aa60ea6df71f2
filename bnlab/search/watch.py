"""While a launcher works: who has ended is told at once."""

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from hydra.core.utils import JobReturn

__all__ = ["Watch"]

_POLL_S = 0.2


class Watched(Protocol):
    """A running sweep, as far as its watch asks it; trials go by their numbers."""

    def has_started(self, number: int) -> bool: ...
    def result(self, number: int) -> dict[str, Any] | None: ...
    def returned(self) -> Mapping[int, JobReturn]: ...
    def tell(self, number: int, result: dict[str, Any]) -> None: ...
    def tell_return(self, number: int, job_return: JobReturn | None) -> None: ...
    def seen(self, running: Iterable[int]) -> None: ...
    def release(self) -> None: ...


class Watch:
    """While a launcher works: tells each trial as soon as its folder says how it ended, whatever process wrote that."""

    def __init__(self, sweep: Watched, numbers: Sequence[int]) -> None:
        self._sweep = sweep
        self._numbers = numbers
        self.open = dict.fromkeys(numbers)  # a set that keeps the order
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_POLL_S):
            try:
                self.collect()
                self._sweep.seen([number for number in self.open if self._sweep.has_started(number)])
            except Exception:  # a busy database: whatever is missed is told at the end of the batch
                logging.getLogger(__name__).debug("telling while the batch runs failed", exc_info=True)
        self._sweep.release()

    def collect(self) -> None:
        """Tell the trials that have ended since the last time."""
        returned = self._sweep.returned()
        for place, number in enumerate(self._numbers):
            if number not in self.open:
                continue
            result = self._sweep.result(number)
            if result is not None:
                self._sweep.tell(number, result)
            elif place in returned:
                self._sweep.tell_return(number, returned[place])
            else:
                continue
            del self.open[number]
