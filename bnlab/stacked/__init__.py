"""Stacked training: networks that differ only in numbers, trained as one. Names are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnlab.stacked.formulas.elementwise import elementwise
    from bnlab.stacked.formulas.layer_table import LAYERS
    from bnlab.stacked.formulas.layers import Layer
    from bnlab.stacked.formulas.stack import Part, Stack
    from bnlab.stacked.networks.optimizers import StackedOptimizer
    from bnlab.stacked.networks.update_rules import UPDATE_RULES, Update, UpdateRule
    from bnlab.stacked.processes.jobs import train

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
    "LAYERS": "formulas.layer_table",
    "UPDATE_RULES": "networks.update_rules",
    "Layer": "formulas.layers",
    "Part": "formulas.stack",
    "Stack": "formulas.stack",
    "StackedOptimizer": "networks.optimizers",
    "Update": "networks.update_rules",
    "UpdateRule": "networks.update_rules",
    "elementwise": "formulas.elementwise",
    "train": "processes.jobs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bnlab.stacked' has no attribute {name!r}")
    return getattr(import_module(f"bnlab.stacked.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
