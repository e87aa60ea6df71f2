"""A figure as the bytes of a file."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from matplotlib import rc_context
from matplotlib.figure import Figure

__all__ = ["DPI", "file_of", "picture", "vector_file"]

DPI = 120


def picture(figure: Figure) -> bytes:
    """The PNG file of a figure."""
    buffer = io.BytesIO()
    with _without_remarks_on_letters():
        figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def file_of(figure: Figure, suffix: str) -> bytes:
    """`figure` as a file whose name ends with `suffix`: .png, .svg or .pdf."""
    return picture(figure) if suffix == ".png" else vector_file(figure, suffix.removeprefix("."))


def vector_file(figure: Figure, format: str) -> bytes:
    """The SVG or PDF file of a figure, the same bytes for the same figure; letters stay letters.

    Those of an SVG are set in the reader's DejaVu Sans, or in Verdana, which has its widths.
    """
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}[format]
    buffer = io.BytesIO()
    settings = rc_context({"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "bnlab"})
    with _without_remarks_on_letters(), settings:
        figure.savefig(buffer, format=format, metadata=undated)
    return buffer.getvalue()


@contextmanager
def _without_remarks_on_letters() -> Iterator[None]:
    """A box in the picture shows where the font lacks one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        yield
