"""The content of a training's figure, without the drawing, so that processes can send it without matplotlib."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Curves"]


@dataclass(frozen=True)
class Curves:
    """The columns of metrics.csv, the title, and the epoch to mark."""

    metrics: Mapping[str, Sequence[float]]
    title: str
    best_epoch: float | None = None
