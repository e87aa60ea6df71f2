"""`bnlab.stacked.train`: many trainings from Python, stacked."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig

from bnlab.composing import overrides_of
from bnlab.config.confidential import learn
from bnlab.config.settings import interpolations_of, plain, plain_to_write
from bnlab.errors import UserError, user_errors
from bnlab.io.folder_lock import FolderLock
from bnlab.rules import one_of
from bnlab.runs.folder import RunFolder
from bnlab.runs.summary import Summary
from bnlab.search.study.folder import UNFINISHED
from bnlab.stacked.job import Job
from bnlab.stacked.processes.chunks import Chunks
from bnlab.stacked.processes.existing import Replacement, stored_summary
from bnlab.stacked.processes.memory import chunk_size
from bnlab.stacked.processes.pool import Pool, Report
from bnlab.text.concealing import known

__all__ = ["num_cores", "run_jobs", "train"]


def train(
    configs: Iterable[DictConfig],
    folder: str | Path,
    *,
    exist: str = "error",
    num_workers: int | None = None,
    report: Callable[[Report], None] = lambda report: None,
) -> list[Summary]:
    """Train the network of each config; those that differ only in numbers train as one.

    Each writes a run folder as `bnlab.engines.fit.fit` does, in `folder`/0, `folder`/1, ..., for `bnlab.load` to read,
    and has the same learning curve as when trained alone, up to rounding.

    Args:
        configs: configs from `bnlab.compose`.
        folder: the folder of the runs, created if it does not exist.
        exist: what to do if one of the folders already holds a run. "error" refuses before anything is trained; "skip"
            keeps complete runs of the same config, which may have diverged, and trains the others, each from the last
            state that a killed or interrupted call with the same folder has written, as long trainings do now and
            then; "overwrite" replaces each run with its whole folder once the new run has ended with results.
        num_workers: the number of processes, of one thread each; None for one per core.
        report: called from time to time with the progress.
    Returns:
        the content of each summary.json, in the order of the configs; for a training that failed, "status" is failed,
        and "error" says why.
    Raises:
        UserError: `num_workers` is below 1, another stack is being trained in the folder, or it holds a run that
            `exist` does not allow; nothing has been changed.
    """
    one_of("error", "skip", "overwrite").check("exist", exist)
    if num_workers is not None and num_workers < 1:
        raise UserError(
            f"`num_workers` must be a whole number >= 1, or None for one per core, but got {num_workers!r}."
        )
    root = Path(folder).absolute()
    with _locked_root(root):
        return _train(configs, root, exist, num_workers, report)


@contextmanager
def _locked_root(root: Path) -> Iterator[None]:
    """Lock `root`: two trainings at once would mistake each other's folders for leftovers of a killed process.

    Raises:
        UserError: another stack is being trained there, or the folder cannot be made.
    """
    with user_errors(f"The folder {str(root)!r} cannot be written: "):
        root.mkdir(parents=True, exist_ok=True)
        try:
            lock = FolderLock(root)
        except BlockingIOError:
            raise UserError(
                f"A stack is still being trained in {str(root)!r}: choose another folder, or wait for its end."
            ) from None
    with lock:
        yield


def _train(
    configs: Iterable[DictConfig],
    root: Path,
    exist: str,
    num_workers: int | None,
    report: Callable[[Report], None],
) -> list[Summary]:
    summaries: dict[int, Summary] = {}
    to_train: dict[int, DictConfig] = {}
    occupied: list[int] = []
    for number, config in enumerate(configs):
        run = RunFolder(root / str(number))
        if run.holds_results:
            run.require_idle()
            if exist == "error":
                raise UserError(
                    f"{str(run.path)!r} already holds a run: exist='skip' keeps the complete ones and trains the rest, "
                    "exist='overwrite' replaces them."
                )
            stored = stored_summary(run, plain_to_write(config)) if exist == "skip" else None
            if stored is not None:
                summaries[number] = stored
                continue
            occupied.append(number)
        to_train[number] = config
    unfinished = root / UNFINISHED
    if exist != "skip":
        shutil.rmtree(unfinished, ignore_errors=True)
    replacements = {number: Replacement(root / str(number)) for number in occupied}

    def ended(number: int, summary: Summary) -> None:
        summaries[number] = summary
        if number in replacements:
            replacements.pop(number).end(summary)

    places = {number: root / str(number) for number in to_train}
    places |= {number: replacement.folder for number, replacement in replacements.items()}
    jobs = [_job(number, config, places[number]) for number, config in to_train.items()]
    pool = Pool(min(num_workers or num_cores(), max(len(jobs), 1)))
    try:
        if jobs:
            run_jobs(pool, iter(jobs), len(jobs), ended, report)
    finally:
        pool.close()
        for replacement in replacements.values():
            replacement.discard()
    shutil.rmtree(unfinished, ignore_errors=True)
    return [summaries[number] for number in sorted(summaries)]


def _job(number: int, config: DictConfig, folder: Path) -> Job:
    learn(config)
    settings = plain(config)
    overrides = overrides_of(settings, plain_to_write(config))
    return Job(number, settings, folder, overrides, from_environment=interpolations_of(config), secrets=known())


def run_jobs(
    pool: Pool,
    jobs: Iterator[Job],
    num_jobs: int,
    ended: Callable[[int, Summary], None],
    report: Callable[[Report], None],
) -> None:
    """Cut `jobs` into chunks and let `pool` do them."""
    fair = -(-num_jobs // pool.num_workers)  # no worker is idle while another one has two networks
    pool.run(Chunks(jobs, lambda config: min(fair, chunk_size(config, pool.num_workers))), ended, report)


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
