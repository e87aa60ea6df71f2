"""The common parts of a search's panels: the colours and marks of the trials, and the axis of the objective."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.markers import CARETDOWNBASE, CARETUPBASE, MarkerStyle
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from bnlab.figures.palette import COLOURS, ordered_colours
from bnlab.figures.scales import number_log_axis, set_scale, short, unique
from bnlab.metrics import metric_of
from bnlab.status import Status
from bnlab.text.number_format import label as metric_label

__all__ = ["Axis", "Box", "SearchView", "factor_of"]

Axis = str | Sequence[str]
"""A scale (linear, log, one_minus_log), or the texts of choices in order."""

Box = Mapping[str, tuple[float, float]]
"""The ends of the box in each bounded parameter."""

# The look of each status.
MARKERS: dict[str, str] = {
    Status.COMPLETED: "o",
    Status.INCOMPLETE: "o",
    Status.PRUNED: "v",
    Status.DIVERGED: "x",
    Status.FAILED: "+",
}
_PLACELESS = (Status.DIVERGED, Status.FAILED)  # drawn at the edge as they are elsewhere
_GREY = "0.6"
_BEST: dict[str, Any] = {
    "color": "#F0E442",
    "markeredgecolor": "black",
    "markeredgewidth": 0.8,
}  # Okabe and Ito's yellow
MOST_LEVELS = len(COLOURS)  # of a factor shown by colour
_DODGE = 0.09  # between levels at one choice, whose error bars would otherwise overlap
_MOST_CONNECTED = 15  # points per level; a line through more would show their noise
_TOO_MUCH = 1e100  # too large for the numbers on an axis
_BEYOND = 0.03  # of the panel's height: the position of trials outside its range


def factor_of(axes: Mapping[str, Axis]) -> str | None:
    """Return the parameter to show by colour instead of on an axis: a choice with few levels, preferably of names."""
    choices = {key: axis for key, axis in axes.items() if not isinstance(axis, str) and 1 < len(axis) <= MOST_LEVELS}
    if len(axes) < 2 or not choices:
        return None
    return min(choices, key=lambda key: (all(map(_is_number, choices[key])), len(choices[key])))


@dataclass(frozen=True)
class SearchView:
    """The common parts of all panels: the trials, their colours, and the axis of the objective."""

    trials: Sequence[Mapping[str, Any]]
    axes: Mapping[str, Axis]
    objective: str
    minimize: bool
    rounds: Sequence[Sequence[Box]]
    factor: str | None = field(init=False)
    limits: tuple[float, float] | None = field(init=False)
    best: Mapping[str, Any] | None = field(init=False)
    levels: Sequence[tuple[str, str]] = field(init=False)  # name and colour of each

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", None if len(self.rounds) > 1 else factor_of(self.axes))
        object.__setattr__(self, "levels", self._levels())
        object.__setattr__(self, "limits", self._limits())
        placed = [trial for trial in self.trials if trial["objective"] is not None]
        ranked = [trial for trial in placed if trial["status"] not in (Status.PRUNED, Status.INCOMPLETE)] or placed
        sign = 1 if self.minimize else -1
        best = min(ranked, key=lambda trial: sign * trial["objective"], default=None)
        object.__setattr__(self, "best", best)

    def _levels(self) -> list[tuple[str, str]]:
        if len(self.rounds) > 1:
            colours = ordered_colours(len(self.rounds))
            return [(f"round {index + 1}", colour) for index, colour in enumerate(colours)]
        if self.factor is None:
            return []
        key = short(self.factor.rpartition(".")[2])
        names = unique([short(text) for text in self.axes[self.factor]])
        return [(f"{key}={name}", colour) for name, colour in zip(names, COLOURS, strict=False)]

    def _level(self, trial: Mapping[str, Any]) -> int | None:
        if len(self.rounds) > 1:
            return trial.get("round")
        if self.factor is None or self.factor not in trial:
            return None
        return list(self.axes[self.factor]).index(trial[self.factor])

    def _colour(self, trial: Mapping[str, Any]) -> str:
        level = self._level(trial)
        if level is not None:
            return self.levels[min(level, len(self.levels) - 1)][1]
        if self.levels:
            return _GREY
        return {Status.PRUNED: _GREY, Status.FAILED: _GREY, Status.DIVERGED: "#CC79A7"}.get(trial["status"], COLOURS[0])

    def _is_log(self) -> bool:
        """Whether the objective is a loss that spans more than a decade."""
        return (
            self.limits is not None
            and metric_of(self.objective).is_logarithmic
            and self.limits[0] > 0
            and 10 * self.limits[0] < self.limits[1] < _TOO_MUCH
        )

    def _limits(self) -> tuple[float, float] | None:
        """Return the range of the objectives and their bars, of the trials that completed or, without any, of all."""
        placed = [trial for trial in self.trials if trial["objective"] is not None]
        steady = [trial for trial in placed if trial["status"] != Status.DIVERGED] or placed
        least = metric_of(self.objective).least_drawn
        steady = [trial for trial in steady if trial["objective"] >= least] or steady
        ends = [trial["objective"] + sign * (trial.get("deviation") or 0.0) for trial in steady for sign in (-1, 1)]
        return (min(ends), max(ends)) if ends else None

    def draw(self, panel: Axes, key: str, *, is_leftmost: bool) -> None:
        """Draw the panel of one parameter."""
        scale = self.axes[key]
        if self._is_log():
            panel.set_yscale("log")
        if self.factor is not None and len(self.axes) == 2:
            self._connect(panel, key)
        for status, colour, of_group in self._groups(key):
            inside = [trial for trial in of_group if self._has_place(trial)]
            if inside:
                self._mark(panel, key, inside, status, colour)
        self._mark_best(panel, key)
        for status, colour, of_group in self._groups(key):
            beyond = [self._place(trial, key) for trial in of_group if not self._has_place(trial)]
            if beyond:
                panel.plot(
                    beyond,
                    [1 - _BEYOND if self.minimize else _BEYOND] * len(beyond),
                    linestyle="",
                    marker=MARKERS[status] if status in _PLACELESS else self._arrow,
                    color=colour,
                    transform=panel.get_xaxis_transform(),
                    label=f"_{status} beyond",
                    clip_on=False,
                )
        for index, boxes in enumerate(self.rounds if len(self.rounds) > 1 else ()):
            for box in boxes:
                if key in box:
                    self._span(panel, key, box, index)
        set_scale(panel, scale)  # after everything on it is drawn
        panel.set_xlabel(short(key), parse_math=False)
        panel.grid(alpha=0.3)
        if is_leftmost:
            panel.set_ylabel(metric_label(self.objective), parse_math=False)
        else:
            panel.tick_params(labelleft=False)
        self._finish_objective(panel)

    @property
    def _arrow(self) -> MarkerStyle:
        """Return the marker that points to a trial beyond the axis."""
        return MarkerStyle(CARETUPBASE if self.minimize else CARETDOWNBASE)

    def _groups(self, *keys: str) -> list[tuple[str, str, list[Mapping[str, Any]]]]:
        """Group the trials that have these parameters by status and colour."""
        groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for trial in self.trials:
            if all(key in trial for key in keys):
                groups.setdefault((trial["status"], self._colour(trial)), []).append(trial)
        return [(status, colour, of_group) for (status, colour), of_group in groups.items()]

    def _has_place(self, trial: Mapping[str, Any]) -> bool:
        """Whether the trial has an objective within the axis."""
        value = trial["objective"]
        if value is None or self.limits is None:
            return False
        return bool(self.limits[0] <= value <= self.limits[1])

    def _mark(self, panel: Axes, key: str, trials: Sequence[Mapping[str, Any]], status: str, colour: str) -> None:
        x, y = [self._place(trial, key) for trial in trials], [trial["objective"] for trial in trials]
        face = "none" if status == Status.INCOMPLETE else colour
        panel.plot(x, y, MARKERS.get(status, "o"), color=colour, markerfacecolor=face, alpha=0.75, label=status)
        if any(trial.get("deviation") is not None for trial in trials):
            deviations = [trial.get("deviation") or 0.0 for trial in trials]
            panel.errorbar(x, y, yerr=deviations, fmt="none", ecolor=colour, alpha=0.75, capsize=2.5, elinewidth=1)

    def _mark_best(self, panel: Axes, key: str) -> None:
        if self.best is not None and key in self.best:
            place = self._place(self.best, key)
            panel.plot([place], [self.best["objective"]], "*", **_BEST, markersize=13, label="best", zorder=4)

    def _connect(self, panel: Axes, key: str) -> None:
        """Draw a line per level, along the other parameter."""
        for level, (_, colour) in enumerate(self.levels):
            of_level = [
                (self._place(trial, key), trial["objective"])
                for trial in self.trials
                if self._level(trial) == level
                and key in trial
                and self._has_place(trial)
                and trial["status"] != Status.DIVERGED
            ]
            if 1 < len(of_level) <= _MOST_CONNECTED and len({x for x, _ in of_level}) == len(of_level):
                panel.plot(*zip(*sorted(of_level), strict=True), color=colour, linewidth=1, alpha=0.6, label="_level")

    def _span(self, panel: Axes, key: str, box: Box, round_: int) -> None:
        """Draw the range of a round in this parameter above the panel, each round below the one before."""
        height = 1.02 + 0.025 * (len(self.rounds) - 1 - round_)
        panel.plot(
            box[key],
            [height, height],
            color=self.levels[round_][1],
            linewidth=2.5,
            solid_capstyle="butt",
            transform=panel.get_xaxis_transform(),
            clip_on=False,
            label=f"_box {round_ + 1}",
        )

    def draw_plane(self, panel: Axes, across: str, up: str) -> None:
        """Draw two parameters against each other, and the boxes of the rounds."""
        for status, colour, of_group in self._groups(across, up):
            x, y = [trial[across] for trial in of_group], [trial[up] for trial in of_group]
            panel.plot(x, y, MARKERS.get(status, "o"), color=colour, alpha=0.75, label=status)
        if self.best is not None and across in self.best and up in self.best:
            panel.plot([self.best[across]], [self.best[up]], "*", **_BEST, markersize=13, label="best", zorder=4)
        for index, boxes in enumerate(self.rounds):
            for box in boxes:
                if across in box and up in box:
                    (left, right), (bottom, top) = box[across], box[up]
                    panel.add_patch(
                        Rectangle(
                            (left, bottom),
                            right - left,
                            top - bottom,
                            fill=False,
                            edgecolor=self.levels[index][1],
                            linewidth=1.5,
                            label=f"_box {index + 1}",
                        )
                    )
        set_scale(panel, self.axes[across])
        set_scale(panel, self.axes[up], vertical=True)
        panel.set_xlabel(short(across), parse_math=False)
        panel.set_ylabel(short(up), parse_math=False)
        panel.grid(alpha=0.3)

    def _place(self, trial: Mapping[str, Any], key: str) -> float:
        scale = self.axes[key]
        if isinstance(scale, str):
            return float(trial[key])
        level = self._level(trial) if self.factor is not None else None
        apart = 0.0 if level is None else _DODGE * (level - (len(self.levels) - 1) / 2)
        return list(scale).index(trial[key]) + apart

    def _finish_objective(self, panel: Axes) -> None:
        if self.limits is not None:
            low, high = self.limits
            if self._is_log():
                margin = (high / low) ** 0.06
                panel.set_ylim(low / margin, high * margin)
                number_log_axis(panel.yaxis, decades_apart=3)
            else:
                margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
                panel.set_ylim(low - margin, high + margin)
        if metric_of(self.objective).is_share:
            panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))

    def handles(self) -> list[Artist]:
        """Return the legend: colours first, then the statuses that occur, in their colours without a factor."""
        line: Literal["-", ""] = "-" if len(self.rounds) > 1 else ""  # stands for the range of the round
        found: list[Artist] = [
            Line2D([], [], color=colour, marker="o", linestyle=line, linewidth=2.5, label=name)
            for name, colour in self.levels
        ]
        statuses = [status for status in MARKERS if any(trial["status"] == status for trial in self.trials)]
        for status in statuses if not self.levels or statuses != [Status.COMPLETED] else []:
            colour = "0.3" if self.levels else self._colour({"status": status})
            face = "none" if status == Status.INCOMPLETE else colour
            label = "lacks seeds" if status == Status.INCOMPLETE else status
            found.append(
                Line2D([], [], color=colour, markerfacecolor=face, marker=MARKERS[status], linestyle="", label=label)
            )
        if any(trial["status"] not in _PLACELESS and not self._has_place(trial) for trial in self.trials):
            found.append(Line2D([], [], color="0.3", marker=self._arrow, linestyle="", label="off the axis"))
        if self.best is not None:
            found.append(Line2D([], [], **_BEST, marker="*", markersize=11, linestyle="", label="best"))
        return found


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
