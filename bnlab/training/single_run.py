"""Do what every single run does around its training: fill the folder, write the summary, show the closing table."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from rich.console import Console

from bnlab.composing import overrides_of
from bnlab.config.checking import check
from bnlab.config.confidential import learn
from bnlab.config.settings import plain, plain_to_write
from bnlab.errors import UserError, one_line
from bnlab.process.shared_process import ending_forks
from bnlab.runs.closing import show
from bnlab.runs.folder import RunFolder
from bnlab.runs.own_figures import draw_own_figures
from bnlab.runs.reading import load
from bnlab.runs.summary import Owner, Summary, beginning
from bnlab.status import Status

if TYPE_CHECKING:
    from bnlab.training.resumed import Resumed

__all__ = ["carry_out"]

log = logging.getLogger(__name__)


def carry_out(
    config: DictConfig,
    folder: str | Path,
    train: "Callable[[RunFolder, Summary, Resumed | None], None]",
    *,
    overrides: Sequence[str] | None = None,
    command: str | None = None,
    sweep: Owner | None = None,
    resumes: RunFolder | None = None,
    console: Console,
) -> Summary:
    """Let `train` fill the folder of a run, and write its summary, with status failed and the error if it raises.

    Args:
        config: a config from `bnlab.compose`.
        folder: the folder of the run, created if it does not exist.
        train: writes the files of a training and tests its best weights.
        overrides, command, sweep, resumes: as in `bnlab.engines.fit.fit`.
        console: the console for the closing table.
    Returns:
        The content of summary.json.
    Raises:
        UserError: another run is using the folder, which is then not written to, or the folder is no longer writable.
    """
    start = time.monotonic()
    run = RunFolder(Path(folder))
    check(config)
    if overrides is None:
        overrides = overrides_of(plain(config), plain_to_write(config))
    learn(config)
    with run.locked(), _disk_errors_as_user_errors(run):
        resumed = None
        if resumes is not None:
            from bnlab.training.resumed import read_resumed  # torch

            resumed = read_resumed(resumes)
        is_branch = resumes is not None and resumes.path.resolve() != run.path.resolve()
        if resumes is None or is_branch:
            run.create(config, overrides)
        else:
            run.reopen(anew=resumed is None)
        if resumed is not None:
            start -= resumed.seconds
            if resumed.path == run.last_checkpoint:
                run.forget_epoch()
            if is_branch:
                source = str(resumed.source.path.absolute())
                run.write_branch({"folder": source, "epoch": resumed.epoch, "command": command or ""})
        branch = run.read_branch()
        summary = beginning(config, overrides, command if branch is None else branch["command"], sweep)
        if branch is not None:
            summary["branch"] = branch
        try:
            with ending_forks():
                train(run, summary, resumed)
        except BaseException as error:
            summary |= {"error": one_line(error), "seconds": time.monotonic() - start}
            if isinstance(error, Exception):
                summary["status"] = Status.FAILED
            with suppress(OSError):  # the disk may be what failed
                run.finish(summary)
            raise
        summary["seconds"] = time.monotonic() - start
        run.finish(summary)
        for line in draw_own_figures(config.get("figures"), run.path, partial(load, run.path, trust=True)):
            log.warning(line)
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    show(config, summary, run, console)
    return summary


@contextmanager
def _disk_errors_as_user_errors(run: RunFolder) -> Iterator[None]:
    """Make a `UserError` of a full disk or a removed folder, neither of which is a bug."""
    try:
        yield
    except OSError as error:
        file = Path(str(error.filename))
        if not file.is_relative_to(run.path):
            raise
        what = "its folder" if file == run.path else repr(str(file.relative_to(run.path)))
        raise UserError(
            f"The run in {str(run.path)!r} ended early, because {what} cannot be written ({error.strerror}): what was "
            "written before is whole. With more room, resume=FOLDER continues it."
        ) from error
