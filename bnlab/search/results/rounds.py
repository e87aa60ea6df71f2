"""The rounds of a coarse-to-fine search for its figure: which there were, and their boxes."""

from collections.abc import Sequence

import optuna
from optuna.samplers import BaseSampler

from bnlab.search.samplers.coarse_to_fine import CoarseToFineSampler
from bnlab.search.spaces.distributions import distribution_of, from_optuna, name_in_optuna
from bnlab.search.spaces.scales import Scale
from bnlab.search.spaces.space import Space
from bnlab.search.study.trials import Trial

__all__ = ["Box", "rounds_of"]

Box = dict[str, tuple[float, float]]
"""The ends of each numeric parameter, by key."""


def rounds_of(
    sampler: BaseSampler, study: optuna.Study, space: Space, trials: Sequence[Trial]
) -> tuple[list[list[Box]], int]:
    """Return the boxes of each round that has begun, the coarsest first, and the number of trials per round.

    Another kind of search gives None and 0.
    """
    if not isinstance(sampler, CoarseToFineSampler):
        return [], 0
    named = {
        name_in_optuna(parameter): parameter for parameter in space.parameters if isinstance(parameter.values, Scale)
    }
    distributions = {name: distribution_of(parameter) for name, parameter in named.items()}
    last = max((trial.point for trial in trials if trial.point is not None), default=-1)
    rounds = []
    for round_ in range(last // sampler.trials_per_round + 1):
        rounds.append(
            [
                {
                    named[name].key: tuple(sorted(from_optuna(named[name], end) for end in ends))
                    for name, ends in box.items()
                }
                for box in sampler.boxes(study, round_, distributions)
            ]
        )
    return rounds, sampler.trials_per_round
