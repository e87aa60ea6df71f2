"""`hydra/launcher=stacked`: train the jobs of a sweep as a few stacks of networks."""

import atexit
import copy
import gc
import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from bnlab.config.confidential import holds_secrets, learn, resolved, unresolved
from bnlab.config.folder import config_folder
from bnlab.config.settings import interpolations_of
from bnlab.engines.train import task
from bnlab.launchers.n_jobs import N_JOBS, num_processes
from bnlab.launchers.one_job import compose_job, run_here
from bnlab.process.process_limit import require_room
from bnlab.runs.summary import Owner, Summary
from bnlab.search.study.trial_folder import TrialFolder
from bnlab.search.sweeps.launcher import SweepLauncher
from bnlab.search.sweeps.recorded_task import RecordedTask
from bnlab.status import Status
from bnlab.text.command_line import Origin, command, given_overrides
from bnlab.text.concealing import known

__all__ = ["StackedLauncher", "TrialFailedError"]

log = logging.getLogger(__name__)

_TASKS_PER_WORKER = 3  # its process, its parent, and the process that plots for it
_OTHER_TASKS = 8  # the fork server, the watch of the sweep, a compiler


class TrialFailedError(RuntimeError):
    """A trial of a stack failed; the message says why.

    Attributes:
        is_outside: whether something other than the trial caused it (`bnlab.process.outside`).
    """

    def __init__(self, message: str, is_outside: bool = False) -> None:
        super().__init__(message)
        self.is_outside = is_outside


class StackedLauncher(Launcher, SweepLauncher):
    """Trains the jobs of a batch in stacks: networks that differ only in numbers are trained as one (`bnlab.stacked`).

    It stacks only the task of `python -m bnlab.train`. The jobs of any other task run one after another in this
    process, after a line that says so. The worker processes are kept for later batches.

    Args:
        n_jobs: the number of worker processes, of one thread each; -1 means one per core, -2 one less, and so on.
    """

    def __init__(self, n_jobs: int = -1) -> None:
        self._asked_for = n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from bnlab.stacked.processes.jobs import num_cores

        n_jobs = num_processes(self._asked_for, num_cores())
        self._hydra_context = hydra_context
        self._task_function = task_function
        self._config = config
        self._stacks = (task_function.task if isinstance(task_function, RecordedTask) else task_function) is task
        if self._stacks:
            self._start(n_jobs)

    def _start(self, num_workers: int) -> None:
        from bnlab.stacked.processes.memory import CHUNK_SIZE
        from bnlab.stacked.processes.pool import Pool

        require_room(f"{N_JOBS}={num_workers}", _TASKS_PER_WORKER * num_workers + _OTHER_TASKS, N_JOBS)
        self.num_parallel = num_workers * CHUNK_SIZE
        self.num_threads_in_a_job = 1
        self.jobs_end_together = True
        self._pool = Pool(num_workers)
        atexit.register(self._pool.close, wait=False)
        atexit.register(_skip_final_collection)
        self._pool.start()  # while the first configs are composed

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        setup_globals()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        Path(self._config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        return (self._train if self._stacks else self._run)(job_overrides, initial_job_idx)

    def _train(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from bnlab.stacked.processes.jobs import run_jobs

        batch = _Batch(self, job_overrides, initial_job_idx)
        run_jobs(self._pool, batch.jobs(), len(job_overrides), batch.ended, self._show)
        self.activity = ""
        return [batch.returns[index] for index in range(len(job_overrides))]

    def _run(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        if initial_job_idx == 0:
            log.warning(
                "hydra/launcher=stacked can only stack the task of `python -m bnlab.train`, so these jobs run one "
                "after another: use hydra/launcher=joblib to run them in parallel."
            )
        returns = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            returns.append(run_here(self._hydra_context, self._config, self._task_function, number, overrides))
            configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)  # the job has changed it
        return returns

    def _show(self, report: Any) -> None:
        epochs = f", epochs {min(report.epochs)} to {max(report.epochs)}" if report.epochs else ""
        self.activity = f"{report.num_networks} networks in {len(report.epochs)} stacks{epochs}"


def _skip_final_collection() -> None:
    """Keep Python from a final garbage collection, which delays its exit."""
    if "torch" not in sys.modules:  # torch's libraries would report a leak
        gc.freeze()


class _Batch:
    """The jobs of one call of `launch`, and their returns."""

    def __init__(self, launcher: StackedLauncher, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> None:
        self._context = launcher._hydra_context
        self._task_function = launcher._task_function
        self._config = launcher._config
        self._overrides = [list(overrides) for overrides in job_overrides]
        self._initial = initial_job_idx
        self._origin = Origin.of(self._config.hydra, config_folder()).of_a_run()
        self._reads_hydra = "${hydra:" in OmegaConf.to_yaml(OmegaConf.masked_copy(self._config, self._of_task()))
        self._jobs: dict[int, str] = {}
        self._configs: dict[int, DictConfig] = {}  # for callbacks, if there are any
        self.returns: dict[int, JobReturn] = {}

    def jobs(self) -> Iterator[Any]:
        """Compose the jobs one after another; a job that cannot be composed has failed."""
        from bnlab.stacked.job import Job

        for index, overrides in enumerate(self._overrides):
            if index == len(self._overrides) - 1:
                # This process is idle from here on: load what the end of the sweep needs.
                threading.Thread(target=import_module, args=("bnlab.figures",), daemon=True).start()
            try:
                config = compose_job(self._context, self._config, self._initial + index, overrides)
                has_callbacks = bool(self._context.callbacks.callbacks)
                if self._reads_hydra or has_callbacks or "${hydra:" in "".join(overrides):
                    HydraConfig.instance().set_config(config)  # slower than all the rest
                folder = Path(str(config.hydra.sweep.dir)) / str(config.hydra.sweep.subdir)
                with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
                    config.hydra.runtime.output_dir = str(folder.absolute())
                if has_callbacks:
                    self._configs[index] = config
                    HydraConfig.instance().set_config(config)  # it keeps a copy, which lacked the folder
                    self._context.callbacks.on_job_start(config=config, task_function=self._task_function)
                raw = unresolved(config)
                container = resolved(config, {key: raw[key] for key in raw if key != "search"})
                job = Job(index, container, folder.absolute(), *self._about(config.hydra))
                if holds_secrets(raw):
                    learn(config)
                    job = replace(job, from_environment=interpolations_of(config), secrets=known())
            except Exception as error:
                self._return(index, JobStatus.FAILED, error)
                continue
            self._jobs[index] = config.hydra.job.name
            yield job

    def _about(self, hydra: DictConfig) -> tuple[list[str], str, Owner | None]:
        """Return the overrides of a job, the command that runs it alone, and the sweep it belongs to."""
        overrides = given_overrides(hydra.overrides.task)
        job = self._task_function
        sweep = TrialFolder.of(hydra).identity(job.sweep_id) if isinstance(job, RecordedTask) else None
        return overrides, command(overrides, self._origin), sweep

    def _of_task(self) -> list[str]:
        """Return the keys of the task, without the search, which is not part of a run."""
        return [str(key) for key in self._config if key not in ("hydra", "search")]

    def ended(self, index: int, summary: Summary) -> None:
        status = summary["status"]
        if status in (Status.FAILED, Status.INTERRUPTED):
            error = TrialFailedError(summary.get("error", status), summary.get("outside", False))
            self._return(index, JobStatus.FAILED, error)
        else:
            self._return(index, JobStatus.COMPLETED, summary["objective"])

    def _return(self, index: int, status: JobStatus, value: Any) -> None:
        result = JobReturn(overrides=self._overrides[index], status=status)
        result.return_value = value
        result.working_dir = os.getcwd()
        result.task_name = self._jobs.get(index)
        config = self._configs.pop(index, None)
        if config is not None:
            self._call_back(config, result)
        self.returns[index] = result

    def _call_back(self, config: DictConfig, result: JobReturn) -> None:
        """Call `on_job_end` with what Hydra's `run_job` passes."""
        HydraConfig.instance().set_config(config)
        hydra_config: Any = HydraConfig.instance().cfg
        result.hydra_cfg = copy.deepcopy(hydra_config)
        result.cfg = OmegaConf.masked_copy(config, self._of_task())
        result.overrides = list(config.hydra.overrides.task)
        self._context.callbacks.on_job_end(config=config, job_return=result)
