"""Watches a batch while its launcher runs, and reports each end at once, at a cost that depends on changes alone."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from hydra.core.utils import JobReturn

from bnlab.runs.summary import Summary
from bnlab.search.sweeps.arrivals import Arrivals

__all__ = ["Watch"]

_POLL_S = 0.2
_LOOKS = 200  # at the folders of running trials, each time; if there are more, they take turns


class Watched(Protocol):
    """The interface of a running sweep that a watch needs; trials are identified by number."""

    def result(self, number: int) -> Summary | None: ...
    def returned(self, since: int) -> Mapping[int, JobReturn]: ...
    def tell(self, number: int, result: Summary) -> None: ...
    def tell_return(self, number: int, job_return: JobReturn | None) -> None: ...
    def seen(self, num_running: int) -> None: ...
    def release(self) -> None: ...


class Watch:
    """Reports the end of each trial as soon as its folder or its launcher shows it, whichever process wrote that.

    Args:
        sweep: the sweep to report to.
        root: the sweep's folder.
        names: the names of the trials' folders below it, by trial number, in the order of the batch.
    Attributes:
        open: the numbers of the trials whose end has not been reported, as keys, i.e. an ordered set.
    """

    def __init__(self, sweep: Watched, root: Path, names: Mapping[int, str]) -> None:
        self._sweep = sweep
        self._numbers = list(names)
        self._number_of = {name: number for number, name in names.items()}
        self._arrivals = Arrivals(root, names.values())
        self.open = dict.fromkeys(names)
        self._running: OrderedDict[int, None] = OrderedDict()  # the next one to look at comes first
        self._num_returned = 0
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
                self.look()
            except Exception:  # e.g. a busy database; missed ends are reported at the end of the batch
                logging.getLogger(__name__).debug("telling while the batch runs failed", exc_info=True)
        self._sweep.release()

    def look(self) -> None:
        """Report the trials that have ended, by the launcher's returns and the folders whose turn it is."""
        for name in self._arrivals.new():
            number = self._number_of[name]
            if number in self.open:
                self._running[number] = None
        for place, job_return in self._sweep.returned(self._num_returned).items():
            self._report_if_ended(self._numbers[place], job_return)
            self._num_returned += 1
        for _ in range(min(_LOOKS, len(self._running))):
            number = next(iter(self._running))
            self._running.move_to_end(number)  # first, so that a failure here does not block the others
            self._report_if_ended(number)
        self._sweep.seen(len(self._running))

    def collect(self) -> None:
        """Look at all open trials, started or not."""
        returned = self._sweep.returned(0)
        for place, number in enumerate(self._numbers):
            self._report_if_ended(number, returned.get(place))

    def _report_if_ended(self, number: int, job_return: JobReturn | None = None) -> None:
        if number not in self.open:
            return
        result = self._sweep.result(number)
        if result is not None:
            self._sweep.tell(number, result)
        elif job_return is not None:
            self._sweep.tell_return(number, job_return)
        else:
            return
        del self.open[number]
        self._running.pop(number, None)
