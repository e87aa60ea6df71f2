"""Draws the inside of a network, one row per layer."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from bnlab.figures.palette import COLOURS
from bnlab.figures.titles import SIZE, filled, wrapped

__all__ = ["inside"]

MOST_ROWS = 6
_BEFORE, _AFTER, _THIRD, _DEAD = COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[3]
_NUM_BINS = 60


class Shown(Protocol):
    """The attributes of a layer that are drawn; see `bnlab.inside.layers.Layer`, whose tensors numpy accepts."""

    name: str
    before: Any
    after: Any
    weight: Any
    bias: Any
    running_mean: Any
    running_var: Any
    batches: Any
    active: Any


def inside(layers: Sequence[Any], title: str, note: str = "") -> Figure:
    """Draw for each layer: histograms before and after the norm, γ and β, running and batch statistics, active units.

    Of many layers, an evenly spaced selection is drawn. Columns that no layer has are left out, and so is the output
    layer unless it is the only one.
    """
    hidden = [layer for layer in layers if layer.after is not None or layer.active is not None] or list(layers)
    drawn = hidden
    if len(hidden) > MOST_ROWS:
        drawn = [hidden[index] for index in np.linspace(0, len(hidden) - 1, MOST_ROWS).round().astype(int)]
        title += f"; {MOST_ROWS} of {len(hidden)} layers"
    columns = [_values]
    if any(layer.weight is not None or layer.bias is not None for layer in drawn):
        columns.append(_parameters)
    if any(layer.batches is not None and layer.running_mean is not None for layer in drawn):
        columns.append(_statistics)
    if any(layer.active is not None for layer in drawn):
        columns.append(_activity)
    size = max(3.4 * len(columns), 6.0), 1.2 + 2.1 * len(drawn)
    figure = Figure(figsize=size, layout="constrained")
    lines = wrapped(title, size[0]), filled(note, size[0])
    figure.suptitle("\n".join(lines).rstrip(), fontsize=SIZE, parse_math=False)
    grid = figure.subplots(len(drawn), len(columns), squeeze=False)
    handles: dict[str, Artist] = {}
    for row, layer in zip(grid, drawn, strict=True):
        for panel, draw in zip(row, columns, strict=True):
            found = draw(panel, layer)
            handles |= found
            panel.set_visible(bool(found))
            panel.tick_params(labelsize=8)
            panel.grid(alpha=0.3)
        row[0].set_ylabel(_short(layer.name), parse_math=False)
    titles = {draw: _TITLES[draw.__name__] for draw in columns}
    if all(layer.after is None for layer in drawn):
        titles[_values] = "values out of the linear layer"
    for panel, draw in zip(grid[0], columns, strict=True):
        panel.set_title(titles[draw], fontsize=SIZE)
        panel.set_visible(True)
    figure.align_ylabels()
    num_lines = -(-len(handles) // max(2, 2 * len(columns)))
    figure.legend(
        handles=list(handles.values()),
        labels=list(handles),
        loc="outside lower center",
        ncols=-(-len(handles) // num_lines),  # even lines: one more handle than fits would stand alone below the first
        frameon=False,
        fontsize=9,
    )
    return figure


_TITLES = {
    "_values": "values before and after the norm",
    "_parameters": "γ and β of the units",
    "_statistics": "running against batch statistics",
    "_activity": "units by how often they are active",
}


def _values(panel: Axes, layer: Shown) -> dict[str, Artist]:
    """Draw histograms pooled over units and samples, without the outermost thousandth at each end."""
    parts = {"before the norm" if layer.after is not None else "z": _finite(layer.before)}
    if layer.after is not None:
        parts["after the norm"] = _finite(layer.after)
    ends = [np.quantile(values, (0.001, 0.999)) for values in parts.values() if values.size]
    if not ends:
        return {}
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    if low == high:
        low, high = low - 0.5, high + 0.5
    bins = np.linspace(low, high, _NUM_BINS + 1).tolist()
    handles: dict[str, Artist] = {}
    for (label, values), colour in zip(parts.items(), (_BEFORE, _AFTER), strict=False):
        weights = np.full(values.shape, 1 / max(values.size, 1))
        panel.hist(values, bins, weights=weights, color=colour, alpha=0.45, histtype="stepfilled", label=label)
        handles[label] = Patch(color=colour, alpha=0.45)
    panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    return handles


def _parameters(panel: Axes, layer: Shown) -> dict[str, Artist]:
    """Draw each unit's γ and β, sorted by size."""
    handles: dict[str, Artist] = {}
    for label, values, colour in (("γ", layer.weight, _THIRD), ("β", layer.bias, _DEAD)):
        if values is not None:
            ordered = np.sort(_finite(values))
            (line,) = panel.plot(np.arange(1, len(ordered) + 1), ordered, ".", color=colour, markersize=4, label=label)
            handles[label] = line
    if handles:
        panel.set_xlabel("unit, by size", fontsize=8)
    return handles


def _statistics(panel: Axes, layer: Shown) -> dict[str, Artist]:
    """Plot each unit's running statistic against the mean of its batch statistics, with a bar of one deviation."""
    if layer.batches is None or layer.running_mean is None or layer.running_var is None:
        return {}
    means, deviations = _array(layer.batches.mean), np.sqrt(_array(layer.batches.var))
    handles: dict[str, Artist] = {}
    for label, running, batches, colour, marker in (
        ("mean of a unit", _array(layer.running_mean), means, _BEFORE, "o"),
        ("deviation of a unit", np.sqrt(_array(layer.running_var)), deviations, _AFTER, "^"),
    ):
        x, spread = batches.mean(0), batches.std(0)
        panel.errorbar(x, running, xerr=spread, fmt="none", ecolor=colour, alpha=0.25, linewidth=1)
        (line,) = panel.plot(x, running, marker, color=colour, markersize=3.5, alpha=0.7, label=label)
        handles[label] = line
    ends = [*panel.get_xlim(), *panel.get_ylim()]
    both = min(ends), max(ends)
    panel.plot(both, both, color="0.4", linewidth=1, zorder=0, label="_equal")
    panel.set_xlim(*both)
    panel.set_ylim(*both)
    panel.set_xlabel("of the batches", fontsize=8)
    panel.set_ylabel("running", fontsize=8)
    handles["equal"] = Line2D([], [], color="0.4", linewidth=1)
    return handles


def _activity(panel: Axes, layer: Shown) -> dict[str, Artist]:
    """Draw the share of samples at which each unit's activation has a slope, in ascending order; 0 is a dead unit."""
    if layer.active is None:
        return {}
    shares = np.sort(_array(layer.active))
    places, is_dead = np.arange(1, len(shares) + 1), shares == 0
    panel.fill_between(places, shares, step="mid", color=_BEFORE, alpha=0.35, linewidth=0, label="_active")
    handles: dict[str, Artist] = {"active share of the samples": Patch(color=_BEFORE, alpha=0.35)}
    number = int(is_dead.sum())
    if number:
        (line,) = panel.plot(places[is_dead], shares[is_dead], "x", color="#000000", markersize=5, label="dead")
        line.set_clip_on(False)
        handles["dead unit"] = line
    panel.set_ylim(0, 1.05)
    panel.set_xlim(0.5, len(shares) + 0.5)
    panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    panel.set_xlabel(f"unit, by activity; {number} of {len(shares)} dead", fontsize=8)
    return handles


def _array(values: Any) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


def _finite(values: Any) -> NDArray[np.float64]:
    array = _array(values).ravel()
    return array[np.isfinite(array)]


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"…{name[-23:]}"
