"""Input normalization with the training set's statistics."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bnlab.data.splits import Split, Splits

__all__ = ["Normalization"]


@dataclass(frozen=True)
class Normalization:
    """x -> (x - mean) / std, each feature with its own mean and std, both of the shape of one sample.

    A feature that is constant over the training set has std 0 and tells nothing: it is centred and divided by 1.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, train: Split) -> "Normalization":
        """The mean and the (biased) standard deviation over the samples of `train`, summed in float64."""
        mean = train.x.mean(0, dtype=torch.float64).to(train.x.dtype)
        variance = (train.x - mean).square_().mean(0, dtype=torch.float64)
        return cls(mean, variance.sqrt().to(train.x.dtype))

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.mean) / torch.where(self.std == 0, 1, self.std)

    def state_dict(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "std": self.std}

    def of_splits(self, splits: Splits) -> Splits:
        train, val, test = (Split(self(split.x), split.y) for split in (splits.train, splits.val, splits.test))
        return Splits(train, val, test, splits.num_classes)
