"""The task that a launcher runs for each trial; however it ends, its end is recorded in the trial's folder."""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from bnlab.config.confidential import conceal_files_of_hydra, learn
from bnlab.errors import error_text
from bnlab.io.folder_lock import FolderLock
from bnlab.process.outside import is_outside, wait_for_room
from bnlab.process.shared_process import restored
from bnlab.process.signals import UserInterrupt, is_interrupt
from bnlab.runs.folder import RunFolder
from bnlab.runs.summary import Owner, Summary, summary_in
from bnlab.search.study.trial_folder import TrialFolder
from bnlab.status import Status
from bnlab.text.concealing import remember_all

__all__ = ["JobEndedError", "RecordedTask"]

PATIENCE_S = 60.0  # how long to wait for room on a full disk

log = logging.getLogger(__name__)
logging.getLogger("bnlab").addHandler(logging.NullHandler())  # otherwise records without a handler go to stderr


class JobEndedError(RuntimeError):
    """A job raised an exception that ends a program, such as SystemExit."""


@dataclass(frozen=True)
class RecordedTask:
    """Runs `task`, and writes summary.json into Hydra's output folder if the task itself does not.

    From the summary, a sweep learns how a trial ended while the launcher is still at work, or after the sweep was
    killed. A trial logs to its own train.log, tracebacks included; the console belongs to the sweep.

    Attributes:
        sweep_id: the id of the sweep, which accepts only summaries that contain it.
        secrets: the sweep's known secrets, for the process of the job (`bnlab.text.concealing.known`).
    """

    task: Callable[[DictConfig], Any]
    sweep_id: str
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __call__(self, config: DictConfig) -> Any:
        hydra = HydraConfig.get()
        folder = Path(hydra.runtime.output_dir)
        owner = TrialFolder.of(hydra).identity(self.sweep_id)
        for handler in logging.getLogger().handlers:
            if type(handler) is logging.StreamHandler:
                handler.setLevel(logging.CRITICAL)
        logging.raiseExceptions = False  # a log on a full disk must not fill the screen with tracebacks
        remember_all(self.secrets)
        learn(config)
        conceal_files_of_hydra(hydra)
        start = time.monotonic()
        try:
            with restored():
                value = self.task(config)
        except BaseException as error:
            if isinstance(error, Exception | UserInterrupt) and is_interrupt(error):
                result = Summary(status=Status.INTERRUPTED, seconds=time.monotonic() - start)
                _complete(folder, owner, result, changes=True)
                raise UserInterrupt from error
            log.error("the trial failed", exc_info=True)
            result = Summary(status=Status.FAILED, error=error_text(error), seconds=time.monotonic() - start)
            if is_outside(error):  # otherwise the next trial would fail, too
                result["outside"] = True
                wait_for_room(folder.parent, PATIENCE_S)
            _complete(folder, owner, result)
            if isinstance(error, Exception):
                raise
            raise JobEndedError(error_text(error)) from error  # a sys.exit() ends the job, not the sweep
        result = Summary(status=Status.COMPLETED, objective=value, seconds=time.monotonic() - start)
        _complete(folder, owner, result)
        return value


def _complete(folder: Path, owner: Owner, result: Summary, changes: bool = False) -> None:
    """Add the owner and the fields that the task's own summary lacks; with `changes`, overwrite its fields, too."""
    with suppress(BlockingIOError), FolderLock(folder):  # if locked, the folder is another run's
        try:
            summary = summary_in(folder)
        except ValueError:
            summary = None  # a damaged summary is replaced
        written = Summary() if summary is None else summary
        merged = written | result if changes else result | written
        merged["sweep"] = owner
        if merged != summary:
            _write_patiently(RunFolder(folder), merged)


def _write_patiently(run: RunFolder, summary: Summary) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            run.write_summary(summary)
            return
        except OSError as error:
            if not is_outside(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.2)
