"""What a launcher runs for each trial: the task, with a record of its end in the trial's folder, however it ends."""

import json
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
from bnlab.errors import reason
from bnlab.io.atomic_file import write_text
from bnlab.io.folder_lock import FolderLock
from bnlab.process.outside import is_outside, wait_for_room
from bnlab.process.shared_process import restored
from bnlab.process.signals import UserInterrupt, is_interrupt
from bnlab.search.study.folder import TrialFolder, read_result
from bnlab.text.concealing import remember_all

__all__ = ["Job", "JobEndedError"]

PATIENCE_S = 60.0  # with a full disk

log = logging.getLogger(__name__)
logging.getLogger("bnlab").addHandler(logging.NullHandler())  # else what is to go to no log goes to stderr


class JobEndedError(RuntimeError):
    """A job raised what is to end a program, such as SystemExit."""


@dataclass(frozen=True)
class Job:
    """`task`, which leaves summary.json in Hydra's output folder; where it does not, this does.

    A summary is how a sweep learns of a trial while the launcher is still at work, and after the sweep was killed. What
    a trial logs goes to its own train.log, the traceback of a failure too; the console is the sweep's.

    Attributes:
        sweep_id: of the sweep, which takes no other's summary for its trial's.
        secrets: of the sweep, for the process of the job to know (`bnlab.text.concealing.known`).
    """

    task: Callable[[DictConfig], Any]
    sweep_id: str
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __call__(self, config: DictConfig) -> Any:
        hydra = HydraConfig.get()
        folder = Path(hydra.runtime.output_dir)
        identity = TrialFolder.of(hydra).identity(self.sweep_id)
        for handler in logging.getLogger().handlers:
            if type(handler) is logging.StreamHandler:
                handler.setLevel(logging.CRITICAL)
        logging.raiseExceptions = False  # a log on a full disk is not to fill the screen with tracebacks
        remember_all(self.secrets)
        learn(config)
        conceal_files_of_hydra(hydra)
        start = time.monotonic()
        try:
            with restored():
                value = self.task(config)
        except BaseException as error:
            if isinstance(error, Exception | UserInterrupt) and is_interrupt(error):
                seconds = time.monotonic() - start
                _complete(folder, identity, {"status": "interrupted", "seconds": seconds}, changes=True)
                raise UserInterrupt from error
            log.error("the trial failed", exc_info=True)
            outside = {"outside": True} if is_outside(error) else {}
            result = {"status": "failed", "error": reason(error), "seconds": time.monotonic() - start} | outside
            if outside:  # else it would be the next trial's, too
                wait_for_room(folder.parent, PATIENCE_S)
            _complete(folder, identity, result)
            if isinstance(error, Exception):
                raise
            raise JobEndedError(reason(error)) from error  # a sys.exit() ends the job, not the sweep
        _complete(folder, identity, {"status": "completed", "objective": value, "seconds": time.monotonic() - start})
        return value


def _complete(folder: Path, identity: dict[str, str], result: dict[str, Any], changes: bool = False) -> None:
    """Write whose it is and what the task's own summary does not say; with `changes`, what it says otherwise too."""
    with suppress(BlockingIOError), FolderLock(folder):  # else the folder is another run's
        try:
            summary = read_result(folder)
        except ValueError:
            summary = None  # whatever it was, it is none
        merged = {**(summary or {}), **result} if changes else {**result, **(summary or {})}
        merged["sweep"] = identity
        if merged != summary:
            _write_patiently(folder / "summary.json", json.dumps(merged, indent=2) + "\n")


def _write_patiently(path: Path, content: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            write_text(path, content)
            return
        except OSError as error:
            if not is_outside(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.2)
