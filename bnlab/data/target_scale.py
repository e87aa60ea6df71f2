"""The scale of the targets of a regression."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["AS_THEY_ARE", "TargetScale"]


@dataclass(frozen=True)
class TargetScale:
    """y -> (y - mean) / std, so that the learning rate need not depend on the unit of the targets.

    Metrics are in the unit of y: a mean squared error of scaled targets is multiplied by std^2.
    """

    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def of(cls, y: Tensor) -> "TargetScale":
        """Compute the mean and the (biased) standard deviation of training targets (N,), which must vary."""
        return cls(float(y.double().mean()), float(y.double().std(correction=0)))

    def __call__(self, y: Tensor) -> Tensor:
        return (y.double() - self.mean) / self.std

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "target_mean": torch.tensor(self.mean, dtype=torch.float64),
            "target_std": torch.tensor(self.std, dtype=torch.float64),
        }

    def invert(self, outputs: Tensor) -> Tensor:
        """Convert the network's outputs (N,) to the unit of y."""
        return outputs * self.std + self.mean


AS_THEY_ARE = TargetScale()
