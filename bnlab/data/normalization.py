"""Input normalization with the training set's statistics."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bnlab.data.splits import Split, Splits
from bnlab.data.target_scale import AS_THEY_ARE, TargetScale
from bnlab.errors import UserError

__all__ = ["Normalization", "input_and_target_state"]

_AT_ONCE = 256  # samples in float64, which the caches hold


@dataclass(frozen=True)
class Normalization:
    """x -> (x - mean) / std, each feature with its own mean and std, both of the shape of one sample.

    A feature that is constant over the training set has std 0 and tells nothing: it is centred and divided by 1.

    Args:
        mean, std: in the precision of the data set.
        dtype: of the result; None for what x and mean give.
    """

    mean: Tensor
    std: Tensor
    dtype: torch.dtype | None = None

    @classmethod
    def of(cls, train: Split) -> "Normalization":
        """The mean and the (biased) standard deviation over the samples of `train`.

        In float64, where squares of what float32 holds neither overflow nor vanish, and from the first sample on, so
        that a constant feature has exactly its value as the mean.
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
        """
        Raises:
            UserError: values that overflow, where a feature varies far less in the training set than in another one.
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
    """Return the normalization of inputs and targets as checkpoints keep it; each part only where there is one."""
    state = {} if normalization is None else normalization.state_dict()
    return state if scale == AS_THEY_ARE else state | scale.state_dict()
