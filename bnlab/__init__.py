"""bnlab, the batch-norm laboratory. Names are imported on first use, so that `import bnlab` does not import torch."""

import os
import sys

if sys.argv[:1] == ["-m"]:  # at the start of `python -m bnlab...`: see bnlab.process.import_path
    try:
        _here = os.getcwd()
    except FileNotFoundError:  # it was removed
        _here = ""
    if os.path.dirname(os.path.dirname(os.path.abspath(__file__))) != _here:
        sys.path[:] = sorted(sys.path, key=lambda entry: entry in ("", _here))

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnlab.batch_norm import BatchNorm1d, convert
    from bnlab.calling import run, sweep
    from bnlab.composing import compose
    from bnlab.errors import UserError
    from bnlab.network import MLP
    from bnlab.runs.reading import load
    from bnlab.runs.sweeps import load_sweep

__all__ = ["MLP", "BatchNorm1d", "UserError", "compose", "convert", "load", "load_sweep", "run", "sweep"]

_HOME = {
    "MLP": "bnlab.network",
    "BatchNorm1d": "bnlab.batch_norm",
    "UserError": "bnlab.errors",
    "compose": "bnlab.composing",
    "convert": "bnlab.batch_norm",
    "load": "bnlab.runs.reading",
    "load_sweep": "bnlab.runs.sweeps",
    "run": "bnlab.calling",
    "sweep": "bnlab.calling",
}


def __getattr__(name: str) -> Any:
    if name == "search":  # whose scales can be used after `import bnlab` alone
        return import_module("bnlab.search")
    if name not in _HOME:
        raise AttributeError(f"module 'bnlab' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
