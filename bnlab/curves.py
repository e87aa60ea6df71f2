"""What the picture of a training shows; apart from the drawing, so that it travels without matplotlib."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Curves"]


@dataclass(frozen=True)
class Curves:
    """The columns of metrics.csv, the title, and the epoch to be marked."""

    metrics: Mapping[str, Sequence[float]]
    title: str
    best_epoch: float | None = None
