"""The figure of a search: its objective against each parameter."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from bnlab.figures.scales import number_log_axis

__all__ = ["search"]


def search(
    trials: Sequence[Mapping[str, Any]], axes: Mapping[str, str | Sequence[str]], objective: str, *, minimize: bool
) -> Figure:
    """The objective of each trial against each parameter, on the parameter's scale; the best one marked.

    Args:
        trials: with "objective" (finite), "state", and the parameters by their key; one that a trial does not have is
            left out.
        axes: a parameter's scale (linear, log, one_minus_log), or its choices in order, as the trials have them.
        objective: its name.
        minimize: whether a lower objective is better.
    """
    num_columns = min(len(axes), 3)
    num_rows = -(-len(axes) // num_columns)
    figure = Figure(figsize=(1 + 3.6 * num_columns, 0.6 + 3 * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False)
    ranked = [trial for trial in trials if trial["state"] != "pruned"] or trials
    best = (min if minimize else max)(ranked, key=lambda trial: trial["objective"])
    for panel, (key, scale) in zip(panels.flat, axes.items(), strict=False):
        for state, (colour, marker) in TRIALS.items():
            shown = [trial for trial in trials if trial["state"] == state and key in trial]
            if shown:
                x = [_position(trial[key], scale) for trial in shown]
                panel.plot(x, [trial["objective"] for trial in shown], marker, color=colour, alpha=0.7, label=state)
        if key in best:
            panel.plot(
                [_position(best[key], scale)], [best["objective"]], "*", color="#D55E00", markersize=13, label="best"
            )
        _set_scale(panel, scale)
        panel.set_xlabel(_label(key), parse_math=False)
        panel.grid(alpha=0.3)
        if objective.endswith("accuracy"):
            panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    for panel in panels.flat[len(axes) :]:
        panel.set_visible(False)
    for row in panels:
        row[0].set_ylabel(objective.replace("_", " "), parse_math=False)
    handles = {
        label: handle for panel in panels.flat for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=len(handles), frameon=False)
    return figure


MOST_NAMES = 8  # of choices on an axis; more would lie on one another
TRIALS = {"completed": ("#0072B2", "o"), "pruned": ("0.6", "v"), "diverged": ("#CC79A7", "x")}


def _position(value: Any, scale: str | Sequence[str]) -> Any:
    return value if isinstance(scale, str) else list(scale).index(value)


LONGEST_LABEL = 28  # letters; a longer one would leave no room for the panel


def _label(text: str) -> str:
    """In a line, the middle left out where it is long."""
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    half = LONGEST_LABEL // 2
    return shown if len(shown) <= LONGEST_LABEL else f"{shown[:half]}…{shown[-half:]}"


def _set_scale(panel: Axes, scale: str | Sequence[str]) -> None:
    if not isinstance(scale, str):
        named = range(0, len(scale), -(-len(scale) // MOST_NAMES))
        names = [_label(scale[index]) for index in named]
        if len(set(names)) < len(names):
            names = [f"{index + 1}: {name}" for index, name in zip(named, names, strict=True)]
        turn = 20 if sum(map(len, names)) > 24 else 0  # side by side they would run into each other
        panel.set_xticks(named, names, rotation=turn, parse_math=False)
        panel.set_xlim(-0.5, len(scale) - 0.5)
    elif scale == "log":
        panel.set_xscale("log")
        number_log_axis(panel.xaxis, decades_apart=2)
    elif scale == "one_minus_log":
        panel.set_xscale(
            "function", functions=(lambda x: -np.log10(np.maximum(1 - x, 1e-12)), lambda u: 1 - 10.0 ** (-u))
        )
        low, high = panel.get_xlim()
        ticks = [value for value in _ONE_MINUS_ONE_TWO_FIVE if low <= value <= high]
        if len(ticks) > 5:
            ticks = [value for value in _NINES if low <= value <= high]
        panel.set_xticks(ticks, [f"{value:g}" for value in ticks])


_NINES = [0, *(round(1 - 10.0**-decade, 8) for decade in range(1, 7))]
_ONE_MINUS_ONE_TWO_FIVE = [0, *(round(1 - step * 10.0**-decade, 8) for decade in range(1, 7) for step in (5, 2, 1))]
