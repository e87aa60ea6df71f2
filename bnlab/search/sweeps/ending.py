"""The end of a sweep: its tables and figures, what to run next, and the exit code."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import optuna
from optuna.samplers import BaseSampler
from rich.console import Console

from bnlab.errors import error_text
from bnlab.io.atomic_file import to_disk
from bnlab.process.outside import is_outside
from bnlab.process.signals import EXIT_INTERRUPTED
from bnlab.runs.own_figures import draw_own_figures
from bnlab.runs.sweeps import load_sweep
from bnlab.search.results.ablation import write_ablation
from bnlab.search.results.figure import write_figure
from bnlab.search.results.leaderboard import Leaderboard
from bnlab.search.results.rounds import rounds_of
from bnlab.search.study.folder import resume_command
from bnlab.search.study.trials import Trial
from bnlab.search.sweeps.results import Results
from bnlab.search.sweeps.setup import Setup
from bnlab.search.sweeps.trust import needs_trust
from bnlab.status import Status
from bnlab.text.command_line import shown
from bnlab.text.concealing import holds_address_secret

__all__ = ["Ending", "count", "say"]

EXIT_FAILED = 1


def say(console: Console, line: str) -> None:
    """Print `line` without markup, since a folder may be called [red]."""
    console.out(line, highlight=False)


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class Ending:
    """Ends a sweep.

    Args:
        why_unfinished: a sentence if the sweep can be resumed with further trials, else empty.
        is_interrupted: whether the user ended the sweep.
    """

    def __init__(self, setup: Setup, console: Console, *, why_unfinished: str, is_interrupted: bool) -> None:
        self._setup = setup
        self._console = console
        self._why_unfinished = why_unfinished
        self._is_interrupted = is_interrupted

    def finish(self, results: Results, sampler: BaseSampler, study: optuna.Study) -> list[Trial]:
        """Write and show the results.

        Returns:
            the trials, if all of them have a result.
        Raises:
            SystemExit: otherwise.
        """
        folder = self._setup.folder
        try:
            leaderboard = results.write()
            to_disk([folder.path])
        except Exception as error:
            if not is_outside(error):
                raise
            self._say(f"The results cannot be written: {error_text(error)}")
            self._print_resume_command()
            raise SystemExit(EXIT_INTERRUPTED if self._is_interrupted else EXIT_FAILED) from None
        num_failed = leaderboard.counts()[Status.FAILED]
        self._show(leaderboard, num_failed, sampler, study)
        if self._why_unfinished:
            self._print_resume_command()
        else:
            shutil.rmtree(folder.unfinished, ignore_errors=True)  # the states of trials that failed
            if leaderboard.best is not None:
                self._say(f"Run the best again:\n{leaderboard.command(leaderboard.best)}")
        if self._is_interrupted:
            raise SystemExit(EXIT_INTERRUPTED)
        if num_failed or self._why_unfinished:
            raise SystemExit(EXIT_FAILED)
        return list(leaderboard.trials)

    def _say(self, line: str) -> None:
        say(self._console, line)

    def _show(self, leaderboard: Leaderboard, num_failed: int, sampler: BaseSampler, study: optuna.Study) -> None:
        folder = self._setup.folder
        with _log_failure("the table"):
            table = leaderboard.table(self._console.width)
            if table is not None:
                self._console.print(table)
        if num_failed:
            self._say(f"{num_failed} of {len(leaderboard.trials)} trials failed: see {shown(folder.leaderboard)}")
        with _log_failure(folder.ablation[0].name):
            if write_ablation(leaderboard, folder):
                self._say(f"Mean ± deviation over seeds, with differences: {shown(folder.ablation[0])}")
        with _log_failure(folder.figures[0].name):
            rounds, trials_per_round = rounds_of(sampler, study, self._setup.search.space, leaderboard.trials)
            write_figure(leaderboard, folder, rounds, trials_per_round)
            if folder.figures[0].is_file():
                self._say(f"Picture: {shown(folder.figures[0])}")
        own = self._setup.search.settings.figures
        for line in draw_own_figures(own, folder.path, partial(load_sweep, folder.path)):
            self._say(line)

    def _print_resume_command(self) -> None:
        definition = self._setup.definition
        trust = needs_trust(definition, self._setup.config)
        is_unknown = definition.storage is not None and holds_address_secret(definition.storage)
        given = ", with the address of the study in the variable STUDY" if is_unknown else ""
        line = resume_command(self._setup.folder, trust=trust, asks_for_storage=is_unknown)
        self._say(f"{self._why_unfinished} Continue with{given}:\n{line}".lstrip())


@contextmanager
def _log_failure(what: str) -> Iterator[None]:
    """Log in one line that `what` cannot be shown, and go on, since the results are written."""
    try:
        yield
    except Exception as error:
        logging.getLogger(__name__).warning("%s cannot be shown: %s", what, error_text(error))
