"""Stacked training: networks that differ only in numbers, trained as one. Names are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnlab.stacked.elementwise import elementwise
    from bnlab.stacked.jobs import train
    from bnlab.stacked.layer_table import LAYERS
    from bnlab.stacked.layers import Layer
    from bnlab.stacked.optimizers import StackedOptimizer
    from bnlab.stacked.stack import Part, Stack
    from bnlab.stacked.update_rules import UPDATE_RULES, Update, UpdateRule

__all__ = [
    "LAYERS",
    "UPDATE_RULES",
    "Layer",
    "Part",
    "Stack",
    "StackedOptimizer",
    "Update",
    "UpdateRule",
    "elementwise",
    "train",
]

_HOME = {
    "LAYERS": "layer_table",
    "UPDATE_RULES": "update_rules",
    "Layer": "layers",
    "Part": "stack",
    "Stack": "stack",
    "StackedOptimizer": "optimizers",
    "Update": "update_rules",
    "UpdateRule": "update_rules",
    "elementwise": "elementwise",
    "train": "jobs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bnlab.stacked' has no attribute {name!r}")
    return getattr(import_module(f"bnlab.stacked.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
