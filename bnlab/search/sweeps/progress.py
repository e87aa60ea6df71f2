"""The progress of a sweep: one line for all trials, and a line for each that failed."""

import math
import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from bnlab.runs.progress import clock
from bnlab.search.study.trials import Trial
from bnlab.status import Status
from bnlab.text.number_format import metric

__all__ = ["SweepProgress"]

LINE_EVERY_S = 10.0


class SweepProgress:
    """Shows a bar with counts on a terminal; elsewhere an occasional line, and one at the end of each batch.

    Args:
        console: where the progress is shown.
        num_trials: the number of trials of the whole sweep.
        before: the trials that had finished before this process began, which are not used to estimate the time left.
        objective: the name of the metric.
        minimize: whether a lower objective is better.
        seeds: the number of runs per configuration, whose mean counts once all have ended.
    """

    def __init__(
        self, console: Console, num_trials: int, before: Sequence[Trial], objective: str, minimize: bool, seeds: int = 1
    ) -> None:
        self._console = console
        self._num_trials = num_trials
        self._num_before = len(before)
        self._objective = objective
        self._minimize = minimize
        self._seeds = seeds
        self._of_place: dict[int, dict[int, tuple[float, int]]] = {}  # objective and trial number of each seed so far
        self._start = time.monotonic()
        self._next_line = self._start + LINE_EVERY_S
        self._last_line = ""
        self._counts: Counter[Status] = Counter()
        self._running = 0
        self._activity = ""
        self._best: tuple[float, int, str] | None = None  # mean, first number, the trials in words
        self._bar = Progress(
            BarColumn(bar_width=20), TextColumn("{task.description}"), console=console, disable=not console.is_terminal
        )
        self._task: TaskID = self._bar.add_task("", total=num_trials, completed=len(before))

        for trial in before:
            self._count(trial)

    def __enter__(self) -> "SweepProgress":
        self._bar.start()
        self.update()
        return self

    def __exit__(self, *exception: object) -> None:
        self.update()
        self._bar.stop()

    def ended(self, trial: Trial, *, is_lost: bool = False) -> None:
        """Count a trial; print a line at once if it failed or `is_lost`."""
        self._count(trial)
        if trial.status is Status.FAILED or is_lost:
            end = "was lost" if is_lost else trial.status
            self._console.print(f"trial {trial.number} {end}: {escape(trial.error)}", highlight=False, soft_wrap=True)

    def _count(self, trial: Trial) -> None:
        self._counts[trial.status] += 1
        if not trial.status.is_ranked or trial.objective is None:
            return
        of_place = self._of_place.setdefault(trial.place, {})
        of_place[trial.repeat] = trial.objective, trial.number
        if len(of_place) < self._seeds:
            return
        mean = math.fsum(value for value, _ in of_place.values()) / len(of_place)
        sign = 1 if self._minimize else -1
        numbers = sorted(number for _, number in of_place.values())
        # Of equally good ones, the one with the lowest number is the best, as in the leaderboard.
        if self._best is None or (sign * mean, numbers[0]) < (sign * self._best[0], self._best[1]):
            noun = "trial" if self._seeds == 1 else "trials"
            self._best = mean, numbers[0], f"{noun} {', '.join(map(str, numbers))}"

    def update(self, num_running: int | None = None, activity: str = "") -> None:
        """Show the progress, with the number of running trials and the launcher's `activity` in its own words."""
        if num_running is not None:
            self._running = num_running
            self._activity = activity
        self._bar.update(self._task, completed=self._num_done, description=escape(self._line()))
        if not self._console.is_terminal and time.monotonic() > self._next_line:
            self.print_line()

    def print_line(self) -> None:
        """Print the progress as a log line, unless it repeats the last one."""
        self._next_line = time.monotonic() + LINE_EVERY_S
        line = self._line()
        if not self._console.is_terminal and line != self._last_line:
            self._last_line = line
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    @property
    def _num_done(self) -> int:
        return sum(count for status, count in self._counts.items() if status is not Status.INTERRUPTED)

    def _line(self) -> str:
        done = self._num_done
        here = done - self._num_before
        parts = [f"{done}/{self._num_trials} done"]
        if self._activity:
            parts.append(self._activity)
        elif self._running:
            parts.append(f"{self._running} running")
        told = (Status.FAILED, Status.DIVERGED, Status.PRUNED)
        parts += [f"{self._counts[each]} {each}" for each in told if self._counts[each]]
        if self._best is not None:
            parts.append(f"best {self._objective} {metric(self._objective, self._best[0])} ({self._best[2]})")
        used = time.monotonic() - self._start
        parts.append(f"{clock(used)} used")
        if here and done < self._num_trials:
            parts.append(f"{clock(used / here * (self._num_trials - done))} left")
        return ", ".join(parts)
