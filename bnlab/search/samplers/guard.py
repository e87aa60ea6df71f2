"""Report the mistakes of a sampler, which may be the user's own, in one line."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from bnlab.errors import UserError, error_text
from bnlab.process.outside import is_outside
from bnlab.search.samplers.sweep_sampler import SweepSampler
from bnlab.search.spaces.distributions import holds

__all__ = ["GuardedSampler", "draws_together"]


class GuardedSampler(BaseSampler):
    """Forwards the draws of `sampler`, and refuses values that a parameter cannot have.

    Raises:
        UserError: the sampler raised an error, other than of a lost storage or a full disk. An error at the end of a
            trial is raised before the next draw, so that the trial's result is not lost.
    """

    def __init__(self, sampler: BaseSampler) -> None:
        self.sampler = sampler
        self._late: UserError | None = None

    def reseed_rng(self) -> None:
        self.sampler.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        if self._late is not None:
            raise self._late
        with self._telling():
            self.sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        with self._telling():
            return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        with self._telling():
            values = self.sampler.sample_relative(study, trial, search_space)
            return {name: self._checked(name, search_space[name], value) for name, value in values.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        with self._telling():
            value = self.sampler.sample_independent(study, trial, param_name, param_distribution)
            return self._checked(param_name, param_distribution, value)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        try:
            with self._telling():
                self.sampler.after_trial(study, trial, state, values)
        except UserError as error:
            self._late = error

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if isinstance(error, UserError) or is_outside(error):
                raise
            raise UserError(f"`search`: {self._name} failed ({error_text(error)}).") from error

    def _checked(self, name: str, distribution: BaseDistribution, value: Any) -> Any:
        """Return `value` as a plain number or text, which a NumPy scalar is not."""
        plain = value.item() if hasattr(value, "item") else value
        if isinstance(distribution, FloatDistribution) and isinstance(plain, float):
            for end in (distribution.low, distribution.high):
                if math.isclose(plain, end, rel_tol=1e-12):  # taking the logarithm and back may step over an end
                    return end
        if not holds(distribution, plain):
            raise UserError(
                f"`search`: the values of {name} are {_shown(distribution)}, but {self._name} drew {value!r}."
            )
        return plain

    @property
    def _name(self) -> str:
        return type(self.sampler).__name__


def draws_together(sampler: BaseSampler) -> bool:
    """Return whether the sampler draws all parameters together where draws must not repeat.

    A `SweepSampler` draws each parameter separately.
    """
    return isinstance(sampler, GuardedSampler) and not isinstance(sampler.sampler, SweepSampler)


def _shown(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(str, distribution.choices))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    step = "" if distribution.step in (None, 1) else f" in steps of {distribution.step:g}"
    return f"{distribution.low:g} to {distribution.high:g}{step}"
