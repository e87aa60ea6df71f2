"""Build the sampler that the settings under `search` name."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler

from bnlab.errors import UserError, user_errors
from bnlab.internals.hydra_internals import instantiate
from bnlab.search.samplers.place import PlaceSampler, seed_from
from bnlab.search.samplers.random_draws import RandomSampler

__all__ = ["build_sampler"]


def build_sampler(
    target: Mapping[str, Any] | None, *, seed: int, num_done: int, names: Sequence[str], num_points: int, seeds: int
) -> BaseSampler:
    """Call the `_target_` of a search with its own settings, and with those of the arguments below that it accepts.

    Args:
        target: `_target_` and its settings; None for a grid, whose trials have their values from the start.
        seed: `search.seed`. A sampler that draws by place gets it unchanged; any other gets one that also depends on
            `num_done`, because its sequence of random numbers would start again in a resumed sweep.
        num_done: the number of trials in the study.
        names: the names of the parameters in the study.
        num_points: the number of configurations to try when the search began.
        seeds: the number of trials per configuration.
    Raises:
        UserError: it cannot be built, or is no sampler.
    """
    if target is None:
        return RandomSampler(seed)
    with user_errors("`search`: "), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # the user has chosen it
        make = instantiate({**target, "_partial_": True}, _convert_="all")
        takes = inspect.signature(make.func).parameters
        known = {"num_done": num_done, "names": list(names), "num_points": num_points, "seeds": seeds}
        given = {name: value for name, value in known.items() if name in takes and name not in target}
        if "seed" not in takes:
            sampler = make(**given)
        else:
            sampler = make(seed=seed_from(seed, num_done), **given)
            if isinstance(sampler, PlaceSampler):
                sampler = make(seed=seed, **given)
    if not isinstance(sampler, BaseSampler):
        raise UserError(
            f"`search._target_` must make a sampler of Optuna's, but {target['_target_']} makes a "
            f"{type(sampler).__name__}: derive its class from optuna.samplers.BaseSampler."
        )
    return sampler
