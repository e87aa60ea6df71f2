"""`bnlab.stacked.train`: many trainings from Python, stacked."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bnlab.errors import UserError
from bnlab.stacked.chunks import Chunks, PlainJob
from bnlab.stacked.memory import chunk_size
from bnlab.stacked.pool import Pool, Report
from bnlab.summary import Summary

__all__ = ["num_cores", "run_jobs", "train"]


def train(
    configs: Iterable[DictConfig],
    folder: str | Path,
    *,
    num_workers: int | None = None,
    report: Callable[[Report], None] = lambda report: None,
) -> list[Summary]:
    """Train the network of each config; those that differ only in numbers train as one.

    Each leaves the run folder that `bnlab.fit.fit` leaves, in `folder`/0, `folder`/1, ..., for `bnlab.load` to read,
    and has the learning curve that it has alone, up to rounding.

    Args:
        configs: as `bnlab.compose` gives them.
        folder: for the runs; made if it is not there.
        num_workers: processes, one thread each; None for one a core.
        report: called now and then with how the work stands.
    Returns:
        what each summary.json holds, in the order of the configs; the "status" of what failed is failed, its "error"
        says why.
    Raises:
        UserError: `num_workers` below 1.
    """
    if num_workers is not None and num_workers < 1:
        raise UserError(f"`num_workers` must be a whole number >= 1, or None for one a core, but got {num_workers!r}.")
    root = Path(folder).absolute()
    jobs = [PlainJob(number, plain(config), str(root / str(number)), ()) for number, config in enumerate(configs)]
    pool = Pool(min(num_workers or num_cores(), max(len(jobs), 1)))
    summaries: dict[int, Summary] = {}
    try:
        run_jobs(pool, iter(jobs), len(jobs), summaries.__setitem__, report)
    finally:
        pool.close()
    return [summaries[job.number] for job in jobs]


def run_jobs(
    pool: Pool,
    jobs: Iterator[PlainJob],
    num_jobs: int,
    ended: Callable[[int, Summary], None],
    report: Callable[[Report], None],
) -> None:
    """Cut `jobs` into chunks and let `pool` do them."""
    fair = -(-num_jobs // pool.num_workers)  # nobody idle while another has two networks
    pool.run(Chunks(jobs, lambda config: min(fair, chunk_size(config, pool.num_workers))), ended, report)


def plain(config: DictConfig) -> dict[str, Any]:
    """The config as it travels between processes, resolved; without how a search found it."""
    container: Any = OmegaConf.to_container(config, resolve=True)
    container.pop("search", None)
    return container


def num_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
