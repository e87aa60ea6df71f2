"""Input normalization with the training set's statistics."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bnlab.data.splits import Split, Splits
from bnlab.data.target_scale import AS_THEY_ARE, TargetScale
from bnlab.errors import UserError

__all__ = ["Normalization", "input_and_target_state"]

_AT_ONCE = 256  # samples in float64, so that they fit into the caches


@dataclass(frozen=True)
class Normalization:
    """x -> (x - mean) / std for each feature; mean and std have the shape of one sample.

    A feature that is constant over the training set has std 0 and no information: it is centred and divided by 1.

    Args:
        mean, std: the statistics, in the precision of the data set.
        dtype: the type of the result; None for the promoted type of x and mean.
    """

    mean: Tensor
    std: Tensor
    dtype: torch.dtype | None = None

    @classmethod
    def of(cls, train: Split) -> "Normalization":
        """Compute the mean and the (biased) standard deviation over the samples of `train`.

        They are computed in float64, where squares of float32 values neither overflow nor underflow, and relative to
        the first sample, so that the mean of a constant feature is exactly its value.
        """
        parts, first = train.x.split(_AT_ONCE), train.x[0].double()
        mean, variance = torch.zeros_like(first), torch.zeros_like(first)
        for part in parts:
            mean += (part.double() - first).sum(0)
        mean.div_(len(train)).add_(first)
        for part in parts:
            variance += (part.double() - mean).square_().sum(0)
        return cls(mean.to(train.x.dtype), variance.div_(len(train)).sqrt_().to(train.x.dtype))

    def __call__(self, x: Tensor) -> Tensor:
        normalized = (x - self.mean) / torch.where(self.std == 0, 1, self.std)
        return normalized if self.dtype is None else normalized.to(self.dtype)

    def state_dict(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "std": self.std}

    def of_splits(self, splits: Splits) -> Splits:
        """Normalize all splits.

        Raises:
            UserError: values overflow, because a feature varies far less in the training set than in another split.
        """
        train, val, test = (Split(self(split.x), split.y) for split in (splits.train, splits.val, splits.test))
        try:
            return replace(splits, train=train, val=val, test=test)
        except UserError as error:
            raise UserError(
                "Divided by the training set's deviation, a feature that hardly varies there overflows; drop it, or "
                f"set data.normalize=false ({error})"
            ) from error


def input_and_target_state(normalization: Normalization | None, scale: TargetScale) -> dict[str, Tensor]:
    """Return the normalization of inputs and targets as stored in checkpoints, without those that do not exist."""
    state = {} if normalization is None else normalization.state_dict()
    return state if scale == AS_THEY_ARE else state | scale.state_dict()
