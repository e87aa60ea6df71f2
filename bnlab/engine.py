"""Which code trains a run: Lightning's Trainer, or the engine of stacks."""

from collections.abc import Callable

from omegaconf import DictConfig

from bnlab.stacked.grouping import is_quick
from bnlab.summary import Summary

__all__ = ["fit_of"]


def fit_of(config: DictConfig) -> Callable[..., Summary]:
    """`bnlab.fit.fit`, or what takes its place with trainer=quick; only what is needed is imported."""
    if is_quick(config):
        from bnlab.quick import fit_quickly

        return fit_quickly
    from bnlab.fit import fit

    return fit
