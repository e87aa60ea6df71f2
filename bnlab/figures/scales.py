"""The scales of axes, and the numbers on them."""

import numpy as np
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

__all__ = ["number_log_axis"]


def number_log_axis(axis: Axis, decades_apart: float) -> None:
    """Plain numbers at powers of ten where these are more than `decades_apart`, else at 1, 2, 5, 10, ...

    Tiny ticks between them, and powers written as such, would take matplotlib as long as all the rest.
    """
    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high) - np.log10(low)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < decades_apart else (1,)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())
