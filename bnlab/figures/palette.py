"""Colours that colour-blind readers can tell apart, and dashes for more lines than there are colours."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

__all__ = ["COLOURS", "MOST_LINES", "OTHERS", "SOLID", "Dashes", "line_style", "ordered_colours"]

# Okabe and Ito's palette, without the yellow, which is hard to see on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
Dashes = tuple[int, tuple[float, ...]]
"""The lengths of dashes and gaps in turn, in points, as matplotlib accepts them; none for a solid line."""

SOLID: Dashes = (0, ())
OTHERS = "0.75"  # for further lines, which are not named
_DASHES: Sequence[Dashes] = (SOLID, (0, (4, 1.5)), (0, (1, 1.2)))

MOST_LINES = len(COLOURS) * len(_DASHES)


def line_style(index: int) -> tuple[str, Dashes]:
    """Return the colour and the dashes of line `index`, a unique pair below `MOST_LINES`."""
    return COLOURS[index % len(COLOURS)], _DASHES[index // len(COLOURS) % len(_DASHES)]


def ordered_colours(number: int) -> list[str]:
    """Return colours from light to dark, for an ordered quantity such as rounds."""
    return [to_hex(colormaps["viridis_r"](place)) for place in np.linspace(0.15, 0.95, number)]
