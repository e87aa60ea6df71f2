"""A figure as the bytes of a file."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bnlab.png import png

__all__ = ["DPI", "picture"]

DPI = 120


def picture(figure: Figure) -> bytes:
    """The PNG file of a figure, drawn once; `savefig` draws a figure with a layout twice, for the same pixels."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return png(np.asarray(canvas.buffer_rgba()))
