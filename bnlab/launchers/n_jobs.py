"""`hydra.launcher.n_jobs`: the number of processes, counted as joblib counts them."""

from typing import Any

from bnlab.errors import UserError

__all__ = ["N_JOBS", "num_processes"]

N_JOBS = "hydra.launcher.n_jobs"


def num_processes(n_jobs: Any, num_cores: int) -> int:
    """Return `n_jobs`; if it is negative, all cores but -n_jobs - 1, and at least one.

    Raises:
        UserError: it is 0 or not a whole number.
    """
    if not isinstance(n_jobs, int) or isinstance(n_jobs, bool) or n_jobs == 0:
        raise UserError(
            f"`{N_JOBS}` must be a whole number >= 1, or -1 for one process per core, -2 for one less, and "
            f"so on, but got {n_jobs!r}."
        )
    return n_jobs if n_jobs > 0 else max(1, num_cores + 1 + n_jobs)
