"""Sets the scales of axes, and the numbers and names on them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from numpy.typing import NDArray

__all__ = ["MOST_ABOVE", "number_log_axis", "set_scale", "short", "unique"]

MOST_ABOVE = 10  # times the highest loss of the median training; a training that explodes is cut off there
MOST_NAMES = 8  # of choices on an axis; more would overlap
LONGEST_LABEL = 28  # letters; a longer one would leave no room for the panel


def number_log_axis(axis: Axis, decades_apart: float) -> None:
    """Label the axis in plain numbers: at powers of ten if it spans more than `decades_apart`, else at 1, 2, 5, 10, ...

    matplotlib's own locator adds minor ticks and writes powers, which nobody needs to read a learning rate.
    """
    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high) - np.log10(low)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < decades_apart else (1,)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def short(text: str) -> str:
    """Put the text on one line, and cut out the middle of a long one."""
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    half = LONGEST_LABEL // 2
    return shown if len(shown) <= LONGEST_LABEL else f"{shown[:half]}…{shown[-half:]}"


def unique(names: Sequence[str], numbers: Sequence[int] | None = None) -> list[str]:
    """Return the names, each preceded by its number plus 1 where two are equal."""
    if len(set(names)) == len(names):
        return list(names)
    return [f"{number + 1}: {name}" for number, name in zip(numbers or range(len(names)), names, strict=True)]


def set_scale(panel: Axes, scale: str | Sequence[str], *, vertical: bool = False) -> None:
    """Give the x axis, or the y axis, a scale (linear, log, one_minus_log), or names at 0, 1, 2, ..."""
    axis = panel.yaxis if vertical else panel.xaxis
    set_ticks = panel.set_yticks if vertical else panel.set_xticks
    set_axis_scale = panel.set_yscale if vertical else panel.set_xscale
    if not isinstance(scale, str):
        named = range(0, len(scale), -(-len(scale) // MOST_NAMES))
        names = [short(scale[index]) for index in named]
        names = unique(names, named)
        turn = 20 if sum(map(len, names)) > 24 else 0  # side by side they would run into each other
        set_ticks(named, names, rotation=turn, parse_math=False)
        (panel.set_ylim if vertical else panel.set_xlim)(-0.5, len(scale) - 0.5)
    elif scale == "log":
        set_axis_scale("log")
        number_log_axis(axis, decades_apart=2)
    elif scale == "one_minus_log":
        set_axis_scale("function", functions=(_decades_below_one, _below_one))
        low, high = map(float, panel.dataLim.intervaly if vertical else panel.dataLim.intervalx)
        if np.isfinite(low) and np.isfinite(high):
            ends = _decades_below_one(np.array([low, high]))
            margin = 0.05 * (ends[1] - ends[0]) or 0.1
            low, high = _below_one(ends + np.array([-margin, margin])).tolist()
            (panel.set_ylim if vertical else panel.set_xlim)(low, high)
        ticks = [value for value in _ONE_MINUS_ONE_TWO_FIVE if low <= value <= high]
        if len(ticks) > 5:
            ticks = [value for value in _NINES if low <= value <= high]
        set_ticks(ticks, [f"{value:g}" for value in ticks])


def _decades_below_one(x: NDArray[np.float64]) -> NDArray[np.float64]:
    decades: NDArray[np.float64] = -np.log10(np.maximum(1 - x, 1e-12))
    return decades


def _below_one(decades: NDArray[np.float64]) -> NDArray[np.float64]:
    x: NDArray[np.float64] = 1 - 10.0 ** (-decades)
    return x


_NINES = [0, *(round(1 - 10.0**-decade, 8) for decade in range(1, 7))]
_ONE_MINUS_ONE_TWO_FIVE = [0, *(round(1 - step * 10.0**-decade, 8) for decade in range(1, 7) for step in (5, 2, 1))]
