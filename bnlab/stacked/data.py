"""The data of a stack of trainings: read and normalized once, then kept for every chunk that asks for the same."""

from dataclasses import dataclass

import torch
from omegaconf import DictConfig

from bnlab.build import arguments_of, build_splits
from bnlab.data import Normalization, Split, Splits
from bnlab.data.fingerprint import fingerprint
from bnlab.data.normalization import input_and_target_state
from bnlab.stacked.chunks import data_key

__all__ = ["Data", "load_data"]


@dataclass(frozen=True)
class Data:
    """Normalized `splits`, what normalized them, None where they are as they were read, and which data they are."""

    splits: Splits
    normalization: Normalization | None
    fingerprint: str

    def statistics(self) -> dict[str, torch.Tensor]:
        """What checkpoints say of inputs and targets."""
        return input_and_target_state(self.normalization, self.splits.target_scale)

    def split(self, name: str, dtype: torch.dtype, device: torch.device) -> Split:
        split: Split = getattr(self.splits, name)
        return split.to(device, dtype)


_loaded: dict[str, Data] = {}  # the newest only


def load_data(config: DictConfig) -> Data:
    """
    Raises:
        UserError: the data are not there or cannot be read.
    """
    key = data_key({"data": arguments_of(config.data)})
    if key not in _loaded:
        _loaded.clear()
        splits = build_splits(config)
        which = fingerprint(splits)
        if splits.num_classes is None and config.data.get("normalize_target", True):
            splits = splits.with_scaled_targets()
        normalization = Normalization.of(splits.train) if config.data.normalize else None
        _loaded[key] = Data(normalization.of_splits(splits) if normalization else splits, normalization, which)
    return _loaded[key]
