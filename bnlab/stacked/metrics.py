"""Loss and accuracy of an epoch for K networks; the same figures as `bnlab.metrics.EpochMetrics` gives for one."""

import torch
from torch import Tensor

__all__ = ["StackedMetrics", "count_hits"]


def count_hits(logits: Tensor, y: Tensor) -> Tensor:
    """How many samples have their largest logit at their class, (K,), from (K, N, classes) and (K, N) or (N,)."""
    return (logits.argmax(2) == y).sum(1)


class StackedMetrics:
    """Collect the mean losses and the hits of each batch; the epoch's means weigh every sample alike."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._hits: list[Tensor] = []
        self._sizes: list[int] = []

    def update(self, losses: Tensor, hits: Tensor, num_samples: int) -> None:
        """Add a batch: its mean losses (K,), and how many of its samples were classified right (K,)."""
        self._losses.append(losses)
        self._hits.append(hits)
        self._sizes.append(num_samples)

    def compute(self, stage: str) -> list[dict[str, float]]:
        """{"<stage>_loss", "<stage>_accuracy"} of each network."""
        sizes = torch.tensor(self._sizes, dtype=torch.float64)
        num_samples = sum(self._sizes)
        losses = (torch.stack(self._losses).cpu().double() * sizes.unsqueeze(1)).sum(0) / num_samples
        hits = torch.stack(self._hits).sum(0).tolist()
        return [
            {f"{stage}_loss": loss, f"{stage}_accuracy": hit / num_samples}
            for loss, hit in zip(losses.tolist(), hits, strict=True)
        ]
