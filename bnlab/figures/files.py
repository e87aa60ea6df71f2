"""Converts a figure to the bytes of a file."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from matplotlib import rc_context
from matplotlib.figure import Figure

__all__ = ["DPI", "file_of", "picture", "vector_file"]

DPI = 120


def picture(figure: Figure) -> bytes:
    """Return the PNG file of a figure."""
    buffer = io.BytesIO()
    with _without_glyph_warnings():
        figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def file_of(figure: Figure, suffix: str) -> bytes:
    """Return `figure` in the format of `suffix`: .png, .svg or .pdf."""
    return picture(figure) if suffix == ".png" else vector_file(figure, suffix.removeprefix("."))


def vector_file(figure: Figure, format: str) -> bytes:
    """Return the SVG or PDF file of a figure: the same bytes for the same figure, with its text as text.

    The text of an SVG is set in the reader's DejaVu Sans, or in Verdana, which has the same widths.
    """
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}[format]
    buffer = io.BytesIO()
    settings = rc_context({"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "bnlab"})
    with _without_glyph_warnings(), settings:
        figure.savefig(buffer, format=format, metadata=undated)
    return buffer.getvalue()


@contextmanager
def _without_glyph_warnings() -> Iterator[None]:
    """Silence warnings about letters that the font lacks; the picture shows a box in their place."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        yield
