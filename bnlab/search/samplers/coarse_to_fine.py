"""Search at random in boxes that shrink around the best configurations, round by round."""

import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from bnlab.rules import integer, number
from bnlab.search.samplers.place import REPEAT, PlaceSampler, again_of, place_of, uniform
from bnlab.search.spaces.distributions import holds, position, value_at

__all__ = ["CoarseToFineSampler", "coarse_to_fine"]

_Places = dict[int, list[FrozenTrial]]  # the trials with a value at each place


def coarse_to_fine(seed: int, num_points: int, rounds: int, shrink: float, keep: int) -> "CoarseToFineSampler":
    """Make the sampler for `num_points` configurations in `rounds` rounds of the same length.

    Raises:
        UserError: a setting breaks its rule.
    """
    integer(minimum=1).check("search.rounds", rounds)
    number(above=0, below=1).check("search.shrink", shrink)
    integer(minimum=1).check("search.keep", keep)
    return CoarseToFineSampler(seed, trials_per_round=-(-num_points // rounds), shrink=shrink, keep=keep)


class CoarseToFineSampler(PlaceSampler):
    """Draws rounds of random trials, each round in boxes around the best of the round before.

    The box of round k (from 0) has the width shrink^k of the range, in the coordinate of the parameter's scale (the
    exponent on a log scale), and is shifted, not cut, if it would leave the range. It always holds at least three
    neighbouring integers. A choice is kept with probability 1 - shrink^k, and drawn anew otherwise.

    Args:
        seed: the seed of the draws.
        trials_per_round: the number of places per round.
        shrink: the factor by which boxes shrink per round, in (0, 1).
        keep: the number of best configurations that get a box; the trials of a round are drawn from these in turn.
    """

    def __init__(self, seed: int, *, trials_per_round: int, shrink: float = 0.5, keep: int = 1) -> None:
        self._seed = seed
        self.trials_per_round = trials_per_round
        self._shrink = shrink
        self._keep = keep
        self._centres: dict[int, list[dict[str, Any]]] = {}  # of the boxes, by round

    def places_per_round(self, num_places: int) -> int | None:
        return self.trials_per_round

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        _check_one_objective(study)
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        _check_one_objective(study)
        place = place_of(trial)
        round_ = place // self.trials_per_round
        r = uniform(self._seed, place, param_name, *again_of(trial))
        centres = self._centres_of(study, round_)
        centre = centres[place % len(centres)] if centres else {}
        if param_name not in centre or not holds(param_distribution, centre[param_name]):
            return value_at(param_distribution, r)  # the first round, or a parameter that the best does not have
        if isinstance(param_distribution, CategoricalDistribution):
            if uniform(self._seed, place, f"{param_name} anew", *again_of(trial)) >= self._shrink**round_:
                return centre[param_name]
            return value_at(param_distribution, r)
        start, width = self._box(round_, param_distribution, centre[param_name])
        return value_at(param_distribution, start + r * width)

    def _box(self, round_: int, distribution: BaseDistribution, centre: Any) -> tuple[float, float]:
        """Return the start and the width of a round's box around `centre`, in the coordinate of the scale."""
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        width = self._shrink**round_
        if distribution.step is not None:
            width = max(width, _width_of_three(distribution, centre))
        return min(max(position(distribution, centre) - width / 2, 0.0), 1 - width), width

    def boxes(
        self, study: Study, round_: int, distributions: Mapping[str, BaseDistribution]
    ) -> list[dict[str, tuple[Any, Any]]]:
        """Return the boxes of a round: for each centre, the ends of its box in each bounded parameter.

        Args:
            distributions: those of the numeric parameters, by their name in the study.
        """
        found = []
        for centre in self._centres_of(study, round_) or [{}]:
            ends = {}
            for name, distribution in distributions.items():
                start, width = 0.0, 1.0
                if name in centre and holds(distribution, centre[name]):
                    start, width = self._box(round_, distribution, centre[name])
                last = max(start + width - 2**-53, start)  # r is below 1
                ends[name] = value_at(distribution, start), value_at(distribution, last)
            found.append(ends)
        return found

    def _centres_of(self, study: Study, round_: int) -> list[dict[str, Any]]:
        if round_ == 0:
            return []
        if round_ not in self._centres:
            whole, partial = self._results(study, round_)
            # A round in which every trial failed is skipped; incomplete places count only if no place is complete.
            of_round = next((places for places in [*whole, *partial] if places), None)
            if of_round is None:
                return []
            self._centres[round_] = _best(of_round, study.direction, self._keep)
        return self._centres[round_]

    def _results(self, study: Study, round_: int) -> tuple[list[_Places], list[_Places]]:
        """Return the places of earlier rounds, newest first: those whose trials all have a value, and the others."""
        seeds: dict[int, dict[int, FrozenTrial | None]] = {}
        for trial in study.get_trials(deepcopy=False):
            of_place = seeds.setdefault(place_of(trial), {})
            seed = trial.user_attrs.get(REPEAT, trial.number)
            if trial.state == TrialState.COMPLETE:
                of_place[seed] = trial
            else:
                of_place.setdefault(seed, None)  # it may have been tried again
        whole: list[_Places] = [{} for _ in range(round_)]
        partial: list[_Places] = [{} for _ in range(round_)]
        for place, of_place in seeds.items():
            done = [trial for trial in of_place.values() if trial is not None]
            newest = round_ - 1 - place // self.trials_per_round
            if done and newest >= 0:
                (whole if len(done) == len(of_place) else partial)[newest][place] = done
        return whole, partial


def _best(places: _Places, direction: StudyDirection, number: int) -> list[dict[str, Any]]:
    """Return the parameters of the best places; a place with several trials counts by their mean."""
    sign = -1 if direction == StudyDirection.MAXIMIZE else 1

    def rank(place: int) -> tuple[float, int]:
        return sign * math.fsum(trial.values[0] for trial in places[place]) / len(places[place]), place

    return [places[place][0].params for place in sorted(places, key=rank)[:number]]


def _check_one_objective(study: Study) -> None:
    if len(study.directions) > 1:
        raise ValueError(f"CoarseToFineSampler must have one objective, but the study has {len(study.directions)}.")


def _width_of_three(distribution: IntDistribution | FloatDistribution, centre: float) -> float:
    """Return the width of a box that holds `centre` and its neighbours on the grid."""
    assert distribution.step is not None
    low = max(centre - distribution.step, distribution.low)
    high = min(centre + distribution.step, distribution.high)
    cell = 1 / max(round((distribution.high - distribution.low) / distribution.step) + 1, 1)
    width = position(distribution, high) - position(distribution, low)
    return min(width if distribution.log else width + cell, 1.0)
