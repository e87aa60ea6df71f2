"""Draw the points of a low-discrepancy sequence."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from bnlab.search.samplers.place import PlaceSampler, again_of, place_of, seed_from, uniform
from bnlab.search.spaces.distributions import value_at

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["QuasiRandomSampler"]

_BLOCK = 256  # points computed at once, a power of two


class QuasiRandomSampler(PlaceSampler):
    """Draws from a scrambled Sobol sequence: uniform in every projection, and more evenly spread than random points.

    A value is a function of the seed, the place and the parameter's dimension. Parameters that are not in `names` get
    the following dimensions, in the order in which their own trial draws them, whatever other trials draw.

    Args:
        seed: the seed of the scrambling.
        names: the names of the parameters in the study, in the order of their dimensions.
    """

    def __init__(self, seed: int, names: Sequence[str] = ()) -> None:
        self._seed = seed
        self._dimensions = {name: index for index, name in enumerate(names)}
        self._blocks: dict[int, tuple[int, NDArray[np.float64]]] = {}  # the last one used, by dimension

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if again_of(trial):  # the further points of the sequence belong to other places
            return value_at(param_distribution, uniform(self._seed, place_of(trial), param_name, *again_of(trial)))
        dimension = self._dimensions.get(param_name)
        if dimension is None:
            dimension = len(self._dimensions) + len(trial.params.keys() - self._dimensions.keys())
        return value_at(param_distribution, self._coordinate(dimension, place_of(trial)))

    def _coordinate(self, dimension: int, place: int) -> float:
        """Return a coordinate of point `place`; each dimension has its own scrambling, which preserves uniformity."""
        start = place - place % _BLOCK
        known, block = self._blocks.get(dimension, (-1, None))
        if block is None or known != start:
            from scipy.stats.qmc import Sobol

            sequence = Sobol(dimension + 1, scramble=True, rng=seed_from(self._seed, dimension + 1))
            if start:
                sequence.fast_forward(start)
            block = sequence.random(_BLOCK)[:, -1]
            self._blocks[dimension] = start, block
        return float(block[place - start])
