"""Data sets as tensors in memory, their normalization and mini-batches. Lightning is imported on first use only."""

from typing import TYPE_CHECKING, Any

from bnlab.data.batches import Batches, EpochOrder
from bnlab.data.csv_table import from_csv
from bnlab.data.datasets import digits, from_torchvision
from bnlab.data.diabetes import diabetes
from bnlab.data.normalization import Normalization
from bnlab.data.npz_archive import from_npz
from bnlab.data.splits import Split, Splits
from bnlab.data.target_scale import TargetScale

if TYPE_CHECKING:
    from bnlab.data.module import DataModule

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


def __getattr__(name: str) -> Any:
    if name != "DataModule":
        raise AttributeError(f"module 'bnlab.data' has no attribute {name!r}")
    from bnlab.data.module import DataModule

    return DataModule
