"""The figure of a comparison: the curves of several arms in shared panels, with a band over their seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from bnlab.figures.palette import MOST_LINES, OTHERS, SOLID, Dashes, line_style
from bnlab.figures.scales import MOST_ABOVE, number_log_axis
from bnlab.figures.titles import SIZE, wrapped
from bnlab.metrics import metric_of
from bnlab.status import Status
from bnlab.text.number_format import label

__all__ = ["Series", "compare"]

MOST_WITH_TRAINING = 4  # arms; the training curves of more would hide those of validation
_LETTERS_PER_LINE = 120  # in the legend


@dataclass(frozen=True)
class Series:
    """An arm to be drawn.

    Attributes:
        label: its name in the legend.
        runs: the columns of metrics.csv per seed; a run without an epoch is left out.
        unsteady: for each of `runs`, whether it diverged: its end is marked, and it does not stretch the axes.
    """

    label: str
    runs: Sequence[Mapping[str, Sequence[float]]]
    unsteady: Sequence[bool]


def compare(series: Sequence[Series], title: str, quantities: Sequence[str] = ("loss", "accuracy")) -> Figure:
    """Draw one panel per quantity with the mean of each arm over its seeds in validation, ± one standard deviation.

    If there are few arms, dashed lines show the mean in training. If there are more arms than can be told apart, only
    the first are named.
    """
    num_named = min(len(series), MOST_LINES - 1)
    has_training = len(series) <= MOST_WITH_TRAINING
    handles = [
        Line2D([], [], color=colour, linestyle=dashes, label=one.label)
        for one, (colour, dashes) in zip(series[:num_named], map(line_style, range(num_named)), strict=True)
    ]
    if num_named < len(series):
        handles.append(Line2D([], [], color=OTHERS, label=f"{len(series) - num_named} others"))
    if has_training:
        handles.append(Line2D([], [], color="0.3", linestyle="--", linewidth=1, label="in training"))
    if any(flag for one in series for flag in one.unsteady):
        handles.append(Line2D([], [], color="0.3", linestyle="", marker="x", label=Status.DIVERGED))
    longest = max(len(str(handle.get_label())) for handle in handles)
    num_columns = max(1, min(len(handles), _LETTERS_PER_LINE // (longest + 8)))
    num_lines = -(-len(handles) // num_columns)
    size = 5 * len(quantities), 4.4 + 0.21 * num_lines
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(wrapped(title, size[0]), fontsize=SIZE, parse_math=False)
    for axes, quantity in zip(figure.subplots(1, len(quantities), squeeze=False).flat, quantities, strict=True):
        for index, one in reversed(list(enumerate(series))):  # the first ones on top
            _draw(axes, one, quantity, line_style(index) if index < num_named else (OTHERS, SOLID), has_training)
        _finish(axes, series, quantity, ("train", "val") if has_training else ("val",))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=num_columns, frameon=False, fontsize=9, handlelength=2.6
    )
    for text in figure.legends[0].get_texts():
        text.set_parse_math(False)
    return figure


def _draw(axes: Axes, one: Series, quantity: str, style: tuple[str, Dashes], has_training: bool) -> None:
    colour, dashes = style
    epochs, values = _by_epoch(one, f"val_{quantity}")
    if has_training:
        _, of_training = _by_epoch(one, f"train_{quantity}")
        if len(of_training):
            axes.plot(epochs, _mean(of_training), "--", color=colour, linewidth=1, alpha=0.7, label="_training")
    if not len(values):
        return
    mean, deviation = _mean(values), _deviation(values)
    marker = "o" if len(epochs) < 3 else ""  # a line through one point cannot be seen
    axes.plot(epochs, mean, color=colour, linestyle=dashes, marker=marker, label=one.label)
    if len(one.runs) > 1 and colour != OTHERS:
        low, high = mean - deviation, mean + deviation
        metric = metric_of(quantity)
        if metric.is_logarithmic:
            low = np.where(low > 0, low, np.fmin.reduce(values))
        elif math.isfinite(metric.least_drawn):  # otherwise one seed far below would squeeze the others
            high = np.fmin(high, np.fmax.reduce(values))
        axes.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)
    for run, is_unsteady in zip(one.runs, one.unsteady, strict=True):
        finite = [
            (epoch, value)
            for epoch, value in zip(run["epoch"], run.get(f"val_{quantity}", ()), strict=False)
            if math.isfinite(value)
        ]
        if is_unsteady and finite:
            axes.plot(*finite[-1], "x", color=colour, label="_diverged")


def _by_epoch(one: Series, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return all epochs, (E,), and the values of each run, (runs, E), with NaN where one has no finite value."""
    epochs = sorted({epoch for run in one.runs for epoch in run["epoch"]})
    values = np.full((len(one.runs), len(epochs)), np.nan)
    for row, run in zip(values, one.runs, strict=True):
        of_epoch = dict(zip(run["epoch"], run.get(name, ()), strict=False))
        row[:] = [of_epoch.get(epoch, math.nan) for epoch in epochs]
    values[~np.isfinite(values)] = np.nan
    return np.array(epochs), values


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over the runs that reached an epoch; NaN where none did."""
    number = np.isfinite(values).sum(0)
    return np.where(number > 0, np.nansum(values, 0) / np.maximum(number, 1), np.nan)


def _deviation(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard deviation with n - 1; 0 where one run is left."""
    number = np.isfinite(values).sum(0)
    squares = np.nansum((values - _mean(values)) ** 2, 0)
    return np.sqrt(squares / np.maximum(number - 1, 1))


def _finish(axes: Axes, series: Sequence[Series], quantity: str, splits: Sequence[str]) -> None:
    axes.set_title(label(quantity), fontsize=10)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    names = [f"{split}_{quantity}" for split in splits]
    of_arms = [values for one in series if (values := _values(one, names, with_unsteady=False))]
    of_arms = of_arms or [values for one in series if (values := _values(one, names, with_unsteady=True))]
    metric = metric_of(quantity)
    if metric.is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    elif of_arms:
        low, high = min(map(min, of_arms)), max(map(max, of_arms))
        if metric.is_logarithmic and low > 0:
            axes.set_yscale("log")
            axes.set_ylim(low / 1.15, min(high, MOST_ABOVE * median_low(map(max, of_arms))) * 1.15)
            number_log_axis(axes.yaxis, decades_apart=3)
        else:
            if high > metric.least_drawn:
                low = max(low, metric.least_drawn)
            margin = 0.05 * (high - low) or 0.05
            axes.set_ylim(low - margin, high + margin)


def _values(one: Series, names: Sequence[str], *, with_unsteady: bool) -> list[float]:
    """Return the finite values in these columns of the runs that did not diverge."""
    return [
        value
        for run, is_unsteady in zip(one.runs, one.unsteady, strict=True)
        if with_unsteady or not is_unsteady
        for name in names
        for value in run.get(name, ())
        if math.isfinite(value)
    ]
