"""Tables in, matplotlib figures out; nothing is shown or saved here."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
    StrMethodFormatter,
)
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bnlab.curves import Curves
from bnlab.png import png

__all__ = ["DPI", "curves", "picture", "pictures_of_many", "search"]

DPI = 120
TITLE_POINTS = 11
QUANTITIES = ("loss", "accuracy")

COLOURS = {"train": "#0072B2", "val": "#D55E00"}  # of Okabe and Ito's palette: distinct for colour-blind readers too


def curves(metrics: Mapping[str, Sequence[float]], title: str, best_epoch: float | None = None) -> Figure:
    """Loss and accuracy of training and validation against the epoch, side by side; the best epoch marked."""
    figure = Figure(figsize=(10, 4.2))
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.12, top=0.84)  # a layout engine costs 0.15 s a picture
    figure.suptitle(title, fontsize=TITLE_POINTS)
    epochs = metrics["epoch"]
    for axes, quantity in zip(figure.subplots(1, 2), QUANTITIES, strict=True):
        for split, colour in COLOURS.items():
            marker = "o" if len(epochs) < 3 else None  # a line through one point cannot be seen
            axes.plot(epochs, metrics[f"{split}_{quantity}"], color=colour, marker=marker, label=split)
        if best_epoch is not None:
            axes.axvline(best_epoch, color="0.6", linestyle=":", label="best epoch")
        # Given places: matplotlib takes 0.1 s to find the same ones.
        axes.set_title(quantity, fontsize=10, y=1)
        axes.set_xlabel("epoch")
        axes.xaxis.set_label_coords(0.5, -0.09)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
        if quantity == "loss" and _fits_log_scale(metrics):
            axes.set_yscale("log")  # the last epochs, a hundredth of the first, would be one flat line
            _number_log_axis(axes.yaxis, decades_apart=3)
        if quantity == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    return figure


def _fits_log_scale(metrics: Mapping[str, Sequence[float]]) -> bool:
    return all(value > 0 for split in COLOURS for value in metrics[f"{split}_loss"])


def _number_log_axis(axis: Axis, decades_apart: float) -> None:
    """Plain numbers at powers of ten where these are more than `decades_apart`, else at 1, 2, 5, 10, ...

    Tiny ticks between them, and powers written as such, would take matplotlib as long as all the rest.
    """
    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high) - np.log10(low)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < decades_apart else (1,)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def picture(figure: Figure) -> bytes:
    """The PNG file of a figure, drawn once; `savefig` draws a figure with a layout twice, for the same pixels."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return png(np.asarray(canvas.buffer_rgba()))


def pictures_of_many(trainings: Sequence[Curves]) -> Iterator[bytes]:
    """`curves` of each training as PNG, all on the same axes, so that pictures can be compared.

    Axes, grid, ticks and legend are drawn once, and the lines of each training over a copy: 8 ms a picture instead of
    80. What is drawn on is kept for the next call.
    """
    together = {
        name: [value for training in trainings for value in training.metrics[name]] for name in trainings[0].metrics
    }
    canvas = _canvas(_fits_log_scale(together), max(together["epoch"]) < 3)
    figure = canvas.figure
    for axes, quantity in zip(figure.axes, QUANTITIES, strict=True):
        _set_lines(axes, Curves(together, "", best_epoch=1), quantity)
        axes.relim()
        axes.autoscale_view()
        if axes.get_yscale() == "log":
            _number_log_axis(axes.yaxis, decades_apart=3)
    canvas.draw()
    background = canvas.copy_from_bbox(figure.bbox)
    for training in trainings:
        canvas.restore_region(background)
        for axes, quantity in zip(figure.axes, QUANTITIES, strict=True):
            _set_lines(axes, training, quantity)
            for line in axes.lines if training.best_epoch is not None else axes.lines[:-1]:
                axes.draw_artist(line)
        pixels = np.array(canvas.buffer_rgba())
        title = _title(training.title, pixels.shape[1])
        pixels[: len(title)] = title
        yield png(pixels)


@cache
def _canvas(is_log: bool, is_short: bool) -> FigureCanvasAgg:
    """`curves` of something, with lines that are left out when it is drawn; the grid is a matter of `is_log`."""
    epochs = range(1, 2 if is_short else 4)
    loss = [1.0 if is_log else 0.0] * len(epochs)
    metrics = {f"{split}_{quantity}": loss for split in COLOURS for quantity in QUANTITIES}
    figure = curves({"epoch": list(epochs), **metrics}, "", best_epoch=1)
    figure.set_dpi(DPI)
    for axes in figure.axes:
        for line in axes.lines:
            line.set_animated(True)
    return FigureCanvasAgg(figure)


def _set_lines(axes: Axes, training: Curves, quantity: str) -> None:
    epochs = training.metrics["epoch"]
    *lines, best = axes.lines
    for split, line in zip(COLOURS, lines, strict=True):
        line.set_data(epochs, training.metrics[f"{split}_{quantity}"])
        line.set_marker("o" if len(epochs) < 3 else "")
    if training.best_epoch is not None:
        best.set_xdata([training.best_epoch] * 2)


def _title(text: str, width: int) -> NDArray[np.uint8]:
    """(height, `width`, 4): the line at the top, by Pillow: matplotlib takes 9 ms for it."""
    font = _font(TITLE_POINTS * DPI / 72)
    image = Image.new("RGBA", (width, round(2.7 * font.size)), "white")
    ImageDraw.Draw(image).text((width / 2, 0.33 * font.size), text, fill="black", font=font, anchor="ma")
    return np.asarray(image)


@cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(findfont(FontProperties()), size)


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
        _number_log_axis(panel.xaxis, decades_apart=2)
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
