"""Stacked training: networks that differ only in numbers, trained as one. Names are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnlab.stacked.jobs import train
    from bnlab.stacked.optimizers import StackedOptimizer
    from bnlab.stacked.stack import Stack

__all__ = ["Stack", "StackedOptimizer", "train"]

_HOME = {"Stack": "stack", "StackedOptimizer": "optimizers", "train": "jobs"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bnlab.stacked' has no attribute {name!r}")
    return getattr(import_module(f"bnlab.stacked.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
