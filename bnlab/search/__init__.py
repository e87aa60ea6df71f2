"""Search: scales, spaces, samplers, and the sweeps of `python -m bnlab.train -m`. Names are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnlab.search.spaces.samplers import CoarseToFineSampler, QuasiRandomSampler, RandomSampler
    from bnlab.search.spaces.scales import (
        Scale,
        log_uniform,
        log_uniform_integer,
        one_minus_log_uniform,
        uniform,
        uniform_integer,
    )

__all__ = [
    "CoarseToFineSampler",
    "QuasiRandomSampler",
    "RandomSampler",
    "Scale",
    "log_uniform",
    "log_uniform_integer",
    "one_minus_log_uniform",
    "uniform",
    "uniform_integer",
]

_HOME = {
    name: "bnlab.search.spaces.samplers" if name.endswith("Sampler") else "bnlab.search.spaces.scales"
    for name in __all__
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bnlab.search' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
