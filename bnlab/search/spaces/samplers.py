"""Samplers for Optuna whose draws depend on the seed and the place in the search alone, so that a resumed search
goes on as the uninterrupted one would have.

They work in any Optuna study. In a sweep, a trial carries its place in the user attribute "point" (a trial that
repeats another has the other's place); elsewhere the place is the trial's number.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from bnlab.search.spaces.distributions import holds, position, value_at

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "AGAIN",
    "POINT",
    "REPEAT",
    "CoarseToFineSampler",
    "FixedSampler",
    "QuasiRandomSampler",
    "RandomSampler",
    "build_sampler",
]

# A trial's user attributes
POINT = "point"
AGAIN = "again"  # how often it was drawn before, each time a configuration that was there already
REPEAT = "repeat"  # which of search.seeds it is, from 0

_Places = dict[int, list[FrozenTrial]]  # the trials with a value at each place


def build_sampler(
    kind: str,
    *,
    seed: int,
    names: Sequence[str],
    num_done: int,
    trials_per_round: int,
    shrink: float,
    keep: int,
    num_startup: int,
) -> BaseSampler:
    """The sampler of `search=kind`; `num_done` is how many trials the study has already. A grid needs none."""
    if kind == "tpe":
        # A resumed study goes on with new draws. Running trials count as poor, so that a batch spreads out.
        return TPESampler(seed=_hash(seed, num_done), n_startup_trials=num_startup, constant_liar=True)
    if kind == "quasi_random":
        return QuasiRandomSampler(seed, names)
    if kind == "coarse_to_fine":
        return CoarseToFineSampler(seed, trials_per_round=trials_per_round, shrink=shrink, keep=keep)
    return RandomSampler(seed)


class _PlaceSampler(BaseSampler):
    """Each parameter by itself, from its coordinate r in [0, 1)."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}


class RandomSampler(_PlaceSampler):
    """Independent uniform draws on each parameter's scale, a function of (seed, place, name)."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return value_at(param_distribution, _uniform(self._seed, _place(trial), param_name, *_again(trial)))


class QuasiRandomSampler(_PlaceSampler):
    """Sobol's sequence, scrambled: as good as random in every projection, and the points keep their distance.

    A value is a function of the seed, the place and the parameter's dimension. A parameter that is not in `names` has
    the dimension after theirs and those of the others that its own trial was asked for before; what other trials are
    asked for does not matter.

    Args:
        seed: of the scrambling.
        names: the parameters, as the study calls them, in the order of their dimensions.
    """

    def __init__(self, seed: int, names: Sequence[str] = ()) -> None:
        self._seed = seed
        self._dimensions = {name: index for index, name in enumerate(names)}
        self._blocks: dict[int, tuple[int, NDArray[np.float64]]] = {}  # the last one used of each dimension

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if _again(trial):  # the sequence's own points are those of other places
            return value_at(param_distribution, _uniform(self._seed, _place(trial), param_name, *_again(trial)))
        dimension = self._dimensions.get(param_name)
        if dimension is None:
            dimension = len(self._dimensions) + len(trial.params.keys() - self._dimensions.keys())
        return value_at(param_distribution, self._coordinate(dimension, _place(trial)))

    def _coordinate(self, dimension: int, place: int) -> float:
        """Of the sequence's point `place`. Each dimension has its own scrambling, which keeps the evenness."""
        start = place - place % _BLOCK
        known, block = self._blocks.get(dimension, (-1, None))
        if block is None or known != start:
            from scipy.stats.qmc import Sobol

            sequence = Sobol(dimension + 1, scramble=True, rng=_hash(self._seed, dimension + 1))
            if start:
                sequence.fast_forward(start)
            block = sequence.random(_BLOCK)[:, -1]
            self._blocks[dimension] = start, block
        return float(block[place - start])


_BLOCK = 256  # points computed at once, a power of two


class CoarseToFineSampler(_PlaceSampler):
    """Rounds of random trials, each round in boxes around the best of the round before.

    The box of round k (from 0) has the width shrink^k of the range, in the coordinate of the parameter's scale (the
    exponent on a log scale), and is moved, not cut, where it would leave the range. It always holds at least three
    neighbouring integers; a choice is kept with probability 1 - shrink^k, and drawn anew otherwise.

    Args:
        seed: of the draws.
        trials_per_round: places in a round.
        shrink: in (0, 1).
        keep: how many of the best get a box; the trials of a round go to them in turn.
    """

    def __init__(self, seed: int, *, trials_per_round: int, shrink: float = 0.5, keep: int = 1) -> None:
        self._seed = seed
        self._trials_per_round = trials_per_round
        self._shrink = shrink
        self._keep = keep
        self._centres: dict[int, list[dict[str, Any]]] = {}  # of the boxes of a round

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        _check_one_objective(study)
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        _check_one_objective(study)
        place = _place(trial)
        round_ = place // self._trials_per_round
        r = _uniform(self._seed, place, param_name, *_again(trial))
        centres = self._centres_of(study, round_)
        centre = centres[place % len(centres)] if centres else {}
        if param_name not in centre or not holds(param_distribution, centre[param_name]):
            return value_at(param_distribution, r)  # the first round, or what the best does not have
        if isinstance(param_distribution, CategoricalDistribution):
            if _uniform(self._seed, place, f"{param_name} anew", *_again(trial)) >= self._shrink**round_:
                return centre[param_name]
            return value_at(param_distribution, r)
        start, width = self._box(round_, param_distribution, centre[param_name])
        return value_at(param_distribution, start + r * width)

    def _box(self, round_: int, distribution: BaseDistribution, centre: Any) -> tuple[float, float]:
        """Start and width of the box of a round around `centre`, in the coordinate of the scale."""
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        width = self._shrink**round_
        if distribution.step is not None:
            width = max(width, _width_of_three(distribution, centre))
        return min(max(position(distribution, centre) - width / 2, 0.0), 1 - width), width

    def boxes(
        self, study: Study, round_: int, distributions: Mapping[str, BaseDistribution]
    ) -> list[dict[str, tuple[Any, Any]]]:
        """What a round draws from: for each centre the ends of its box, of the parameters that it bounds.

        Args:
            distributions: of the parameters that are numbers, by their name in the study.
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
            # A round in which every trial failed says nothing; a place that lacks a seed serves where no other does.
            of_round = next((places for places in [*whole, *partial] if places), None)
            if of_round is None:
                return []
            self._centres[round_] = _best(of_round, study.direction, self._keep)
        return self._centres[round_]

    def _results(self, study: Study, round_: int) -> tuple[list[_Places], list[_Places]]:
        """The places of the rounds before, from the newest on: those whose trials all have a value, and the others."""
        seeds: dict[int, dict[int, FrozenTrial | None]] = {}
        for trial in study.get_trials(deepcopy=False):
            of_place = seeds.setdefault(_place(trial), {})
            seed = trial.user_attrs.get(REPEAT, trial.number)
            if trial.state == TrialState.COMPLETE:
                of_place[seed] = trial
            else:
                of_place.setdefault(seed, None)  # it may have been tried again
        whole: list[_Places] = [{} for _ in range(round_)]
        partial: list[_Places] = [{} for _ in range(round_)]
        for place, of_place in seeds.items():
            done = [trial for trial in of_place.values() if trial is not None]
            newest = round_ - 1 - place // self._trials_per_round
            if done and newest >= 0:
                (whole if len(done) == len(of_place) else partial)[newest][place] = done
        return whole, partial


class FixedSampler(_PlaceSampler):
    """Gives the values it is told."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._values[param_name]


def _best(places: _Places, direction: StudyDirection, number: int) -> list[dict[str, Any]]:
    """The parameters of the best places; trials that repeat a place count by their mean."""
    sign = -1 if direction == StudyDirection.MAXIMIZE else 1

    def rank(place: int) -> tuple[float, int]:
        return sign * math.fsum(trial.values[0] for trial in places[place]) / len(places[place]), place

    return [places[place][0].params for place in sorted(places, key=rank)[:number]]


def _check_one_objective(study: Study) -> None:
    if len(study.directions) > 1:
        raise ValueError(f"CoarseToFineSampler must have one objective, but the study has {len(study.directions)}.")


def _width_of_three(distribution: IntDistribution | FloatDistribution, centre: float) -> float:
    """Of a box that holds `centre` and its neighbours on the grid."""
    assert distribution.step is not None
    low = max(centre - distribution.step, distribution.low)
    high = min(centre + distribution.step, distribution.high)
    cell = 1 / max(round((distribution.high - distribution.low) / distribution.step) + 1, 1)
    width = position(distribution, high) - position(distribution, low)
    return min(width if distribution.log else width + cell, 1.0)


def _place(trial: FrozenTrial) -> int:
    return trial.user_attrs.get(POINT, trial.number)


def _again(trial: FrozenTrial) -> tuple[int, ...]:
    """Which draw of its place it is, where it is not the first."""
    return (trial.user_attrs[AGAIN],) if AGAIN in trial.user_attrs else ()


def _uniform(*parts: Any) -> float:
    """In [0, 1), with all 53 bits; looks random, depends on all parts, and is the same on every machine."""
    return (_digest(*parts) >> 11) / 2**53


def _hash(*parts: Any) -> int:
    return _digest(*parts) >> 32


def _digest(*parts: Any) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")
