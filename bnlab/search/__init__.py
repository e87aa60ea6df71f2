"""Search: scales, spaces, samplers, and the sweeps of `python -m bnlab.train -m`. Names are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnlab.search.samplers.coarse_to_fine import CoarseToFineSampler, coarse_to_fine
    from bnlab.search.samplers.place import PlaceSampler
    from bnlab.search.samplers.quasi_random import QuasiRandomSampler
    from bnlab.search.samplers.random_draws import RandomSampler
    from bnlab.search.samplers.sweep_sampler import SweepSampler
    from bnlab.search.samplers.tpe import TPESampler
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
    "PlaceSampler",
    "QuasiRandomSampler",
    "RandomSampler",
    "Scale",
    "SweepSampler",
    "TPESampler",
    "coarse_to_fine",
    "log_uniform",
    "log_uniform_integer",
    "one_minus_log_uniform",
    "uniform",
    "uniform_integer",
]

_HOME = dict.fromkeys(__all__, "bnlab.search.spaces.scales") | {
    "CoarseToFineSampler": "bnlab.search.samplers.coarse_to_fine",
    "PlaceSampler": "bnlab.search.samplers.place",
    "QuasiRandomSampler": "bnlab.search.samplers.quasi_random",
    "RandomSampler": "bnlab.search.samplers.random_draws",
    "SweepSampler": "bnlab.search.samplers.sweep_sampler",
    "TPESampler": "bnlab.search.samplers.tpe",
    "coarse_to_fine": "bnlab.search.samplers.coarse_to_fine",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bnlab.search' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
