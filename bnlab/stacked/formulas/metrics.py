"""Loss and score of an epoch for K networks, equal to those of `bnlab.training.metrics` for one."""

import torch
from torch import Tensor

from bnlab.data.target_scale import TargetScale

__all__ = ["StackedMetrics", "count_hits"]


def count_hits(logits: Tensor, y: Tensor) -> Tensor:
    """Count the samples whose largest logit is at their class, (K,), from (K, N, classes) and (K, N) or (N,)."""
    return (logits.argmax(2) == y).sum(1)


class StackedMetrics:
    """Collect the mean losses of each batch and what the score needs; the epoch's means weigh every sample equally.

    Args:
        scale: the scale of the targets of a regression; None for classes.
    """

    def __init__(self, scale: TargetScale | None = None) -> None:
        self._scale = scale
        self._losses: list[Tensor] = []
        self._counts: list[Tensor] = []
        self._sizes: list[int] = []

    def update(self, losses: Tensor, counts: Tensor, num_samples: int) -> None:
        """Add a batch: its mean losses (K,), and the number of correct samples (K,), or `target_sums`."""
        self._losses.append(losses)
        self._counts.append(counts)
        self._sizes.append(num_samples)

    def compute(self, stage: str) -> list[dict[str, float]]:
        """Return {"<stage>_loss": ..., "<stage>_accuracy" or "<stage>_r2": ...} for each network."""
        sizes = torch.tensor(self._sizes, dtype=torch.float64)
        num_samples = sum(self._sizes)
        losses = (torch.stack(self._losses).cpu().double() * sizes.unsqueeze(1)).sum(0) / num_samples
        counts = torch.stack(self._counts).sum(0)
        if self._scale is None:
            return [
                {f"{stage}_loss": loss, f"{stage}_accuracy": hit / num_samples}
                for loss, hit in zip(losses.tolist(), counts.tolist(), strict=True)
            ]
        sums, squares = counts.cpu().unbind(1)
        variances = squares / num_samples - (sums / num_samples).square()
        scores = 1 - losses / variances
        return [
            {f"{stage}_loss": loss, f"{stage}_r2": score}
            for loss, score in zip((losses * self._scale.std**2).tolist(), scores.tolist(), strict=True)
        ]
