"""The progress of a sweep: one line for all trials, and a line for each that failed."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from bnlab.search.trials import Trial

__all__ = ["SweepProgress"]

LINE_EVERY_S = 10.0


class SweepProgress:
    """On a terminal, a bar with the counts; elsewhere a line now and then, and one at the end of each batch.

    Args:
        console: where it goes.
        num_trials: of the whole sweep.
        before: the trials that had finished before this process began; they say nothing about the time left.
        objective: its name.
        minimize: whether a lower objective is better.
    """

    def __init__(
        self, console: Console, num_trials: int, before: Sequence[Trial], objective: str, minimize: bool
    ) -> None:
        self._console = console
        self._num_trials = num_trials
        self._num_before = len(before)
        self._objective = objective
        self._minimize = minimize
        self._start = time.monotonic()
        self._next_line = self._start + LINE_EVERY_S
        self._last_line = ""
        self._counts: Counter[str] = Counter()
        self._running = 0
        self._activity = ""
        self._best: tuple[float, int] | None = None
        self._bar = Progress(
            BarColumn(bar_width=20), TextColumn("{task.description}"), console=console, disable=not console.is_terminal
        )
        self._task: TaskID = self._bar.add_task("", total=num_trials, completed=len(before))

        for trial in before:
            self._count(trial.number, trial.state, trial.objective)

    def __enter__(self) -> "SweepProgress":
        self._bar.start()
        self.update()
        return self

    def __exit__(self, *exception: object) -> None:
        self.update()
        self._bar.stop()

    def ended(self, number: int, state: str, objective: float | None, reason: str) -> None:
        """Count a trial. A failure is said at once."""
        self._count(number, state, objective)
        if state == "failed":
            self._console.print(f"trial {number} failed: {escape(reason)}", highlight=False, soft_wrap=True)

    def _count(self, number: int, state: str, objective: float | None) -> None:
        self._counts[state] += 1
        if state in ("completed", "diverged") and objective is not None:
            sign = 1 if self._minimize else -1
            if self._best is None or sign * objective < sign * self._best[0]:
                self._best = objective, number

    def update(self, running: Iterable[int] | None = None, activity: str = "") -> None:
        """Show where the sweep stands; `running` are the trials under way, `activity` is what the launcher says."""
        if running is not None:
            self._running = len(list(running))
            self._activity = activity
        self._bar.update(self._task, completed=self._num_done, description=escape(self._line()))
        if not self._console.is_terminal and time.monotonic() > self._next_line:
            self.print_line()

    def print_line(self) -> None:
        """In a log, say where the sweep stands now, unless that was the last thing said."""
        self._next_line = time.monotonic() + LINE_EVERY_S
        line = self._line()
        if not self._console.is_terminal and line != self._last_line:
            self._last_line = line
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    @property
    def _num_done(self) -> int:
        return sum(count for state, count in self._counts.items() if state != "interrupted")

    def _line(self) -> str:
        done = self._num_done
        here = done - self._num_before
        parts = [f"{done}/{self._num_trials} done"]
        if self._activity:
            parts.append(self._activity)
        elif self._running:
            parts.append(f"{self._running} running")
        parts += [f"{self._counts[state]} {state}" for state in ("failed", "diverged", "pruned") if self._counts[state]]
        if self._best is not None:
            parts.append(f"best {self._objective} {self._best[0]:.5g} (trial {self._best[1]})")
        if here and done < self._num_trials:
            left = (time.monotonic() - self._start) / here * (self._num_trials - done)
            parts.append(f"{_time(left)} left")
        return ", ".join(parts)


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
