"""The files of a sweep's results, rewritten as trials end."""

import math
import time

from bnlab.process.outside import is_outside
from bnlab.search.results.leaderboard import Leaderboard
from bnlab.search.study.own_study import OwnStudy
from bnlab.search.study.trials import Trial, read_trials
from bnlab.search.sweeps.setup import Setup

__all__ = ["Results"]

_WRITE_EVERY_S = 5.0
_WRITE_FOR_OTHERS_EVERY_S = 60.0  # the trials of others in a shared study do not set `have_changed`


class Results:
    """Writes the results of a sweep.

    Attributes:
        num_threads: the threads that a trial computes with, if its launcher says so.
        have_changed: whether they have changed since they were written.
    """

    def __init__(self, setup: Setup, own: OwnStudy) -> None:
        self._setup = setup
        self._own = own
        self._next = self._next_unchanged = time.monotonic()
        self.num_threads: int | None = None
        self.have_changed = True

    def trials(self) -> list[Trial]:
        setup = self._setup
        return read_trials(self._own.study, setup.search.space, setup.definition.id, setup.folder.path)

    def write_now_and_then(self) -> None:
        """Write the results if they are due, which takes at most a twentieth of the time."""
        start = time.monotonic()
        if start <= (self._next if self.have_changed else self._next_unchanged):
            return
        self.have_changed = False
        try:
            self.write()
        except OSError as error:
            if not is_outside(error):
                raise
            self.have_changed = True  # try again later
        now = time.monotonic()
        cost = 20 * (now - start)
        self._next = now + max(_WRITE_EVERY_S, cost)
        for_others = now + max(_WRITE_FOR_OTHERS_EVERY_S, cost)
        self._next_unchanged = math.inf if self._own.is_private else for_others

    def write(self) -> Leaderboard:
        search = self._setup.search
        leaderboard = Leaderboard(
            self.trials(),
            search.space,
            search.fixed,
            search.objective,
            search.minimize,
            search.settings.seeds,
            search.base_seed,
            self.num_threads,
            self._setup.definition.origin,
            search.names,
        )
        leaderboard.write(self._setup.folder)
        return leaderboard
