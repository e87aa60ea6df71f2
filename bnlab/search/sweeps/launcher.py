"""What a launcher may offer a sweep beyond Hydra's interface, and the defaults for a launcher that does not."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol, cast, runtime_checkable

from hydra.core.utils import JobReturn

from bnlab.errors import UserError

__all__ = ["SweepLauncher", "offers_of"]


@runtime_checkable
class SweepLauncher(Protocol):
    """Attributes that a sweep reads from its launcher, each of them optional: a launcher need not know of bnlab.

    A launcher must have only the two methods of Hydra's `Launcher`, `setup` and `launch`. A sweep reads `num_parallel`,
    `num_threads_in_a_job` and `jobs_end_together` after `setup`, and repeatedly reads `activity` and `returns` from
    another thread while `launch` runs.

    Attributes:
        num_parallel: how many jobs run at once; 1 by default. TPE proposes as many trials at a time.
        num_threads_in_a_job: the number of computing threads per job, for the command that repeats a trial; None, the
            default, if the launcher does not set them.
        jobs_end_together: whether jobs that run at once also end at once, so that no job can be compared with one that
            has completed; False by default.
        activity: what the launcher is doing, shown beside the progress bar; "" by default.
        returns: the returns of the jobs of this batch that have ended, in the order in which they ended, by their
            position in the batch; empty by default. Without it, a sweep reads how a job ended from its folder.
    """

    num_parallel: int = 1
    num_threads_in_a_job: int | None = None
    jobs_end_together: bool = False
    activity: str = ""
    returns: Mapping[int, JobReturn] = MappingProxyType({})


class _Offers:
    def __init__(self, launcher: object) -> None:
        self._launcher = launcher

    def __getattr__(self, name: str) -> Any:
        return getattr(self._launcher, name, getattr(SweepLauncher, name))


def offers_of(launcher: object) -> SweepLauncher:
    """Return the attributes of `launcher`, read anew each time, with defaults for those that it lacks.

    Raises:
        UserError: its `num_parallel` is not a whole number of at least 1.
    """
    offers = cast(SweepLauncher, _Offers(launcher))
    number = offers.num_parallel
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise UserError(
            "`num_parallel` of a launcher, which says how many jobs run at once, must be a whole number >= 1, but "
            f"{type(launcher).__name__} has {number!r}: correct it there, or leave it out."
        )
    return offers
