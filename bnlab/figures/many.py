"""Replaces one matplotlib figure per training, which a stacked sweep would wait for; delete when drawing one is cheap.

Axes, grid, ticks and legend are drawn once, as matplotlib's animations do (blitting), and the lines of each training
over a copy. Figures: bnlab/bench/records/library_functions.md.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from statistics import median_low

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.font_manager import FontProperties, findfont
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bnlab.curves import Curves
from bnlab.figures.files import DPI
from bnlab.figures.png import png
from bnlab.figures.scales import MOST_ABOVE, number_log_axis
from bnlab.figures.titles import wrapped
from bnlab.figures.training import (
    COLOURS,
    TITLE_POINTS,
    TITLE_WIDTH,
    curves,
    fits_log_scale,
    quantities,
    with_divergence,
)

__all__ = ["pictures_of_many"]


def pictures_of_many(trainings: Sequence[Curves]) -> Iterator[bytes]:
    """Yield the `curves` of each training as PNG, all on the same axes, so that pictures can be compared.

    The canvas is kept for the next call.
    """
    together = {
        name: [value for training in trainings for value in training.metrics[name]] for name in trainings[0].metrics
    }
    shown = quantities(together)
    canvas = _canvas(fits_log_scale(together), max(together["epoch"]) < 3, shown)
    figure = canvas.figure
    for axes, quantity in zip(figure.axes, shown, strict=True):
        _set_lines(axes, Curves(together, "", best_epoch=1), quantity)
        axes.relim()
        axes.autoscale_view()
        if axes.get_yscale() == "log":
            highest = [loss for training in trainings if (loss := _highest_loss(training)) is not None]
            top = min(axes.get_ylim()[1], MOST_ABOVE * median_low(highest))
            axes.set_ylim(top=top, auto=True)  # the axes are kept for the next call
            number_log_axis(axes.yaxis, decades_apart=3)
    canvas.draw()
    background = canvas.copy_from_bbox(figure.bbox)
    for training in trainings:
        canvas.restore_region(background)
        for axes, quantity in zip(figure.axes, shown, strict=True):
            _set_lines(axes, training, quantity)
            for line in axes.lines if training.best_epoch is not None else axes.lines[:-1]:
                axes.draw_artist(line)
        pixels = np.array(canvas.buffer_rgba())
        title = _title(with_divergence(training.title, training.metrics), pixels.shape[1])
        pixels[: len(title)] = title
        yield png(pixels)


@cache
def _canvas(is_log: bool, is_short: bool, shown: tuple[str, ...]) -> FigureCanvasAgg:
    """Draw `curves` of placeholder data, with lines that `draw` leaves out; the grid depends on `is_log`."""
    epochs = range(1, 2 if is_short else 4)
    loss = [1.0 if is_log else 0.0] * len(epochs)
    metrics = {f"{split}_{quantity}": loss for split in COLOURS for quantity in shown}
    figure = curves({"epoch": list(epochs), **metrics}, "", best_epoch=1)
    figure.set_dpi(DPI)
    for axes in figure.axes:
        for line in axes.lines:
            line.set_animated(True)
    return FigureCanvasAgg(figure)


def _highest_loss(training: Curves) -> float | None:
    """Return the highest finite loss; None where the first epoch already diverged."""
    losses = [value for split in COLOURS for value in training.metrics[f"{split}_loss"]]
    return max(filter(math.isfinite, losses), default=None)


def _set_lines(axes: Axes, training: Curves, quantity: str) -> None:
    epochs = training.metrics["epoch"]
    *lines, best = axes.lines
    for split, line in zip(COLOURS, lines, strict=True):
        line.set_data(epochs, training.metrics[f"{split}_{quantity}"])
        line.set_marker("o" if len(epochs) < 3 else "")
    if training.best_epoch is not None:
        best.set_xdata([training.best_epoch] * 2)


def _title(text: str, width: int) -> NDArray[np.uint8]:
    """Replaces matplotlib's `suptitle`, which costs as much as the lines of a picture; delete with this module.

    Returns:
        (height, `width`, 4): one or two lines of text, to be laid over the top of a picture.
    """
    font = _font(TITLE_POINTS * DPI / 72)
    image = Image.new("RGBA", (width, round(2.7 * font.size)), "white")
    for index, line in enumerate(wrapped(text, TITLE_WIDTH).splitlines()):
        place = width / 2, (0.33 + 1.2 * index) * font.size
        ImageDraw.Draw(image).text(place, line, fill="black", font=font, anchor="ma")
    return np.asarray(image)


@cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(findfont(FontProperties()), size)
