"""Keep the batch size within the training set: a trial with a larger batch can only fail."""

from collections.abc import Collection
from dataclasses import replace

from omegaconf import DictConfig, OmegaConf

from bnlab.errors import UserError
from bnlab.preflight.data import num_training_samples
from bnlab.search.spaces.scales import Scale
from bnlab.search.spaces.space import Space

__all__ = ["limit_to_training_set"]

_KEY = "data.batch_size"


def limit_to_training_set(space: Space, config: DictConfig, typed: Collection[str]) -> tuple[Space, list[str]]:
    """Limit the batch size in `space` to the training set; return the space, and a sentence if that changed it.

    Args:
        config: the config of a job without the searched settings.
        typed: the keys that the user gave, which are not changed.
    Raises:
        UserError: the user gave the range.
    """
    parameter = next((p for p in space.parameters if p.key == _KEY), None)
    if parameter is None or not isinstance(parameter.values, Scale):
        return space, []
    if any(p.key in ("data", "task") or (p.key.startswith("data.") and p.key != _KEY) for p in space.parameters):
        return space, []  # each trial has a training set of its own
    scale, most = parameter.values, _num_samples(config)
    if most is None or scale.high <= most:
        return space, []
    if _KEY in typed:
        raise UserError(
            f"`{_KEY}` must be between 1 and the {most} samples of the training set, but is searched up to "
            f"{scale.high:g}."
        )
    others = tuple(p for p in space.parameters if p is not parameter)
    if most <= scale.low:
        told = f"`{_KEY}` is not searched: the training set has {most} samples."
        return Space(others, space.constants), [told]
    within = replace(parameter, values=type(scale)(scale.low, most))
    parameters = tuple(within if p is parameter else p for p in space.parameters)
    told = f"`{_KEY}` is searched up to the {most} samples of the training set, instead of {scale.high:g}."
    return Space(parameters, space.constants), [told]


def _num_samples(config: DictConfig) -> int | None:
    """Return the size of the training set; None if it cannot be read, which each trial reports itself."""
    found = num_training_samples(OmegaConf.to_container(config.data, resolve=True))
    if found is not None:
        return found
    from bnlab.config.build import build_splits  # torch

    try:
        return len(build_splits(config).train.x)
    except UserError:
        return None
