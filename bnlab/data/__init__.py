"""Data sets in memory, their normalization and mini-batches. Names are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bnlab.data_sets import DATA_SETS

if TYPE_CHECKING:
    from bnlab.data.batches import Batches, EpochOrder
    from bnlab.data.csv_table import from_csv
    from bnlab.data.datasets import digits, from_torchvision
    from bnlab.data.diabetes_table import diabetes
    from bnlab.data.module import DataModule
    from bnlab.data.normalization import Normalization
    from bnlab.data.npz_archive import from_npz
    from bnlab.data.splits import Split, Splits
    from bnlab.data.target_scale import TargetScale

__all__ = [
    "Batches",
    "DataModule",
    "EpochOrder",
    "Normalization",
    "Split",
    "Splits",
    "TargetScale",
    "diabetes",
    "digits",
    "from_csv",
    "from_npz",
    "from_torchvision",
]

_HOME = {
    "Batches": "batches",
    "DataModule": "module",
    "EpochOrder": "batches",
    "Normalization": "normalization",
    "Split": "splits",
    "Splits": "splits",
    "TargetScale": "target_scale",
} | {name: data_set.home for name, data_set in DATA_SETS.items()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bnlab.data' has no attribute {name!r}")
    return getattr(import_module(f"bnlab.data.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
