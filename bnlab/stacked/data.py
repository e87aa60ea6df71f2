"""The data of a stack of trainings: read and normalized once, then kept for later chunks with the same data."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from bnlab.config.build import arguments_of, build_splits
from bnlab.config.trust import known_target
from bnlab.data import Normalization, Split, Splits
from bnlab.data.fingerprint import fingerprint
from bnlab.data.normalization import input_and_target_state
from bnlab.internals.hydra_internals import get_object
from bnlab.stacked.grouping import data_key

__all__ = ["Data", "load_data"]


@dataclass(frozen=True)
class Data:
    """Normalized `splits`, their normalization (None if they are unchanged), and their fingerprint."""

    splits: Splits
    normalization: Normalization | None
    fingerprint: str

    def statistics(self) -> dict[str, torch.Tensor]:
        """Return the statistics of inputs and targets for checkpoints."""
        return input_and_target_state(self.normalization, self.splits.target_scale)

    def split(self, name: str, dtype: torch.dtype, device: torch.device) -> Split:
        split: Split = getattr(self.splits, name)
        return split.to(device, dtype)


_Key = tuple[str, tuple[tuple[str, int, int], ...], int]
_loaded: dict[_Key, tuple[Data, Any]] = {}  # the newest data only, with the function that returned them


def load_data(config: DictConfig, *, is_beginning: bool = False) -> Data:
    """Load the data of `config.data`, or return those in memory if neither their files nor their function has changed.

    Args:
        is_beginning: whether a training begins in a process that may be a notebook: the user's own function is then
            called again, because what it reads may have changed.
    Raises:
        UserError: the data are missing or cannot be read.
    """
    arguments = arguments_of(config.data)
    function = _own_function(arguments.get("_target_"))
    key = data_key({"data": arguments}), tuple(_files(arguments)), id(function)
    if key not in _loaded or (is_beginning and function is not None):
        _loaded.clear()
        splits = build_splits(config)
        which = fingerprint(splits)
        if splits.num_classes is None and config.data.get("normalize_target", True):
            splits = splits.with_scaled_targets()
        normalization = Normalization.of(splits.train) if config.data.normalize else None
        data = Data(normalization.of_splits(splits) if normalization else splits, normalization, which)
        _loaded[key] = data, function
    return _loaded[key][0]


def _own_function(name: Any) -> Any:
    """Return the user's function called `name`; None for bnlab's, which return the same for the same arguments."""
    if not isinstance(name, str) or known_target(name) is not None:
        return None
    with suppress(Exception):  # building it will raise the error
        return get_object(name)
    return None


def _files(arguments: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """Yield the files that the arguments name, with the times and sizes that change with their content."""
    for value in arguments.values():
        if isinstance(value, str):
            try:
                path = Path(value).expanduser().absolute()  # relative to another folder, it is another file
                found = path.stat()
            except (OSError, ValueError, RuntimeError):
                continue
            yield str(path), found.st_mtime_ns, found.st_size
