"""The progress of a run: a bar on a terminal, an occasional line elsewhere."""

import time
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from bnlab.text.number_format import label, metric, number

__all__ = ["RunProgress", "clock"]

REFRESH_S = 0.2
LINE_EVERY_S = 10.0


def clock(seconds: float) -> str:
    """Format seconds: 65 as `1:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class RunProgress:
    """Shows the epoch, the loss, the newest validation metric, and the time used and left.

    Args:
        console: where to show it.
        max_epochs, max_steps: the limits of the training; -1 or None for no limit.
    """

    def __init__(self, console: Console, *, max_epochs: int | None, max_steps: int | None = None) -> None:
        self._console = console
        self._max_epochs = max_epochs if max_epochs is not None and max_epochs > 0 else None
        self._max_steps = max_steps if max_steps is not None and max_steps > 0 else None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4)),
            TextColumn("{task.fields[metrics]}", table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[time]}", table_column=Column(no_wrap=True)),
            console=console,
            refresh_per_second=1 / REFRESH_S,
            disable=not console.is_terminal,
            expand=True,
        )
        self._epoch, self._steps, self._before = 0, 0, 0
        self._total: int | None = None
        self._metric = self._loss = ""
        self._start = time.monotonic()
        self._next_refresh = 0.0
        self._next_line = self._start + LINE_EVERY_S

    def begin(self, steps_per_epoch: float, steps: int = 0) -> Self:
        """Show the progress after `steps` steps; as a context manager, remove it at the end."""
        totals = []
        if self._max_epochs is not None and steps_per_epoch != float("inf"):
            totals.append(self._max_epochs * int(steps_per_epoch))
        if self._max_steps is not None:
            totals.append(self._max_steps)
        self._total = min(totals, default=None)
        self._before = self._steps = steps
        self._start = time.monotonic()
        self._task = self._bar.add_task(self._of_epochs(), total=self._total, completed=steps, metrics="", time="")
        self._bar.start()
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    @property
    def is_due(self) -> bool:
        """Whether `update` would show anything; its arguments may be expensive to compute."""
        return time.monotonic() >= (self._next_refresh if self._console.is_terminal else self._next_line)

    def update(self, epoch: int, steps: int, loss: float | None = None) -> None:
        """Report a step of `epoch`, counted from 1."""
        self._epoch, self._steps = epoch, steps
        if loss is not None:
            self._loss = f"loss {number(loss)}"
        self._show()

    def end_epoch(self, row: Mapping[str, Any]) -> None:
        """Report the end of an epoch by its row of metrics.csv."""
        self._epoch, self._steps = int(row["epoch"]), int(row["step"])
        for name in (name for name in row if name.startswith("val_") and name != "val_loss"):
            self._metric = f"{label(name)} {metric(name, row[name])}"
        if row.get("train_loss") is not None:
            self._loss = f"loss {number(row['train_loss'])}"
        self._show()

    def end(self) -> None:
        if not self._bar.disable and self._bar.live.is_started:
            self._refresh()
        self._bar.stop()

    def _show(self) -> None:
        now = time.monotonic()
        if self._console.is_terminal:
            if now >= self._next_refresh:
                self._next_refresh = now + REFRESH_S
                self._refresh()
        elif now >= self._next_line:
            self._next_line = now + LINE_EVERY_S
            parts = [self._of_epochs(), self._metric, self._loss, self._time()]
            self._console.print(", ".join(filter(None, parts)), highlight=False, soft_wrap=True)

    def _refresh(self) -> None:
        self._bar.update(
            self._task,
            description=self._of_epochs(),
            completed=self._steps,
            metrics="  ".join(filter(None, [self._metric, self._loss])),
            time=self._time(),
        )

    def _of_epochs(self) -> str:
        limit = "" if self._max_epochs is None else f"/{self._max_epochs}"
        return f"epoch {max(self._epoch, 1)}{limit}"

    def _time(self) -> str:
        used = time.monotonic() - self._start
        made = self._steps - self._before
        if self._total is None or made <= 0 or self._steps >= self._total:
            return f"{clock(used)} used"
        return f"{clock(used)} used, {clock(used / made * (self._total - self._steps))} left"
