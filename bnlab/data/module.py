"""The LightningDataModule over tensors in memory."""

from typing import Any

import lightning as L
import torch

from bnlab.data.batches import EVALUATION_BATCH_SIZE, Batches, EpochOrder
from bnlab.data.fingerprint import fingerprint
from bnlab.data.normalization import Normalization, input_and_target_state
from bnlab.data.splits import Split, Splits, as_splits
from bnlab.rules import RULES

__all__ = ["DataModule"]


class DataModule(L.LightningDataModule):
    """Serve the mini-batches of `splits` to the trainer, from the trainer's device.

    Args:
        splits: training, validation and test samples.
        batch_size: the batch size of training, or "full".
        normalize: standardize all three splits with the mean and deviation of the training split.
        normalize_target: in a regression, also standardize the targets.
        seed: determines, together with the epoch, the order of the training samples.
    Attributes:
        fingerprint: the fingerprint of the data before normalization.
    Raises:
        UserError: the data or the batch size cannot be used for training.
    """

    def __init__(
        self,
        splits: Splits,
        *,
        batch_size: int | str = 64,
        normalize: bool = True,
        normalize_target: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        splits = as_splits(splits)
        self.fingerprint = fingerprint(splits)
        if splits.num_classes is None and normalize_target:
            splits = splits.with_scaled_targets()
        self.normalization = Normalization.of(splits.train) if normalize else None
        self.splits = self.normalization.of_splits(splits) if self.normalization else splits
        self.order = EpochOrder(len(splits.train), seed)
        RULES["data.batch_size"].check("data.batch_size", batch_size)
        self.batch_size = None if batch_size == "full" else int(batch_size)
        Batches(splits.train, self.batch_size)  # report an impossible batch size before the trainer starts

    def _split(self, name: str) -> Split:
        split: Split = getattr(self.splits, name)
        if self.trainer is None:
            return split
        # float64 is for a network in float64; Lightning converts samples to all other precisions itself.
        is_double = str(self.trainer.precision) == "64-true"
        return split.to(self.trainer.strategy.root_device, None if is_double else torch.float32)

    def train_dataloader(self) -> Batches:
        return Batches(self._split("train"), self.batch_size, self.order)

    def val_dataloader(self) -> Batches:
        split = self._split("val")
        return Batches(split, min(EVALUATION_BATCH_SIZE, len(split)))

    def test_dataloader(self) -> Batches:
        split = self._split("test")
        return Batches(split, min(EVALUATION_BATCH_SIZE, len(split)))

    def state_dict(self) -> dict[str, Any]:
        """Return the normalization of inputs and targets, which the checkpoint keeps."""
        return input_and_target_state(self.normalization, self.splits.target_scale)
