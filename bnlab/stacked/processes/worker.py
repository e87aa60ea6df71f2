"""A worker process: it trains the chunks that it receives, one after another, and reports on them."""

import logging
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from io import StringIO
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from bnlab.curves import Curves
from bnlab.errors import UserError, error_text
from bnlab.io.log_file import logging_to
from bnlab.process.outside import is_outside
from bnlab.process.shared_process import restored
from bnlab.process.signals import UserInterrupt, leave_to_parent, raise_interrupt
from bnlab.runs.folder import RunFolder
from bnlab.runs.own_figures import draw_own_figures
from bnlab.runs.reading import load
from bnlab.runs.summary import Summary
from bnlab.search.study.definition import Definition
from bnlab.search.study.folder import SweepFolder
from bnlab.search.study.trial_folder import TrialFolder
from bnlab.stacked.data import load_data
from bnlab.stacked.finishing import draw, finish
from bnlab.stacked.job import Job
from bnlab.stacked.processes.chunks import Chunk
from bnlab.stacked.processes.plotter import plot_here
from bnlab.stacked.training import Interrupted, Training
from bnlab.stacked.trial import StackedTrial
from bnlab.stacked.unfinished import Unfinished
from bnlab.status import Status
from bnlab.text.command_line import shown
from bnlab.text.concealing import remember_all

if TYPE_CHECKING:
    from bnlab.search.study.pruning import Pruning

__all__ = ["serve", "train_chunk"]

log = logging.getLogger(__name__)


class NotStackableError(Exception):
    """These networks cannot be one stack; the message says why."""


PicturesOf = Callable[[Sequence[Curves]], Iterable[bytes]]


def serve(connection: Connection, pictures_of: PicturesOf = plot_here) -> None:
    """Take chunks from `connection` and answer with events until it closes; `pictures_of` plots.

    Events: ("begun",): a chunk has arrived; ("progress", epoch, number of networks in training); ("said", line): a line
    for the user; ("ended", job number, summary); ("alone", reason): Lightning must train the jobs one by one;
    ("broke", error, whether it came from outside): an unexpected error; ("done",).
    """
    leave_to_parent()
    # Otherwise the parent would not notice the end of this process.
    os.register_at_fork(after_in_child=connection.close)
    while True:
        try:
            chunk = connection.recv()
            if chunk is None:  # a request to stop while idle
                continue
            connection.send(("begun",))
            _answer(chunk, connection, pictures_of)
            connection.send(("done",))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


def _answer(chunk: Chunk, connection: Connection, pictures_of: PicturesOf) -> None:
    def look(epoch: int, num_networks: int) -> None:
        connection.send(("progress", epoch, num_networks))
        if connection.poll():
            connection.recv()
            raise Interrupted

    def say(line: str) -> None:
        connection.send(("said", line))

    try:
        with restored():
            if chunk.reason is not None:
                (job,) = _jobs(chunk.jobs)
                connection.send(("ended", job.number, train_alone(job, chunk.reason)))
                return
            for number, summary in train_chunk(_jobs(chunk.jobs), look, pictures_of, say):
                connection.send(("ended", number, summary))
    except NotStackableError as error:
        connection.send(("alone", str(error)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except BaseException as error:  # a sys.exit() in one network's code must not end others
        log.debug("a chunk failed", exc_info=True)
        connection.send(("broke", error_text(error), is_outside(error)))


def _jobs(plain_jobs: Sequence[Job]) -> list[Job]:
    """Convert the settings to DictConfigs: the first is built, the others are copies of it with the differences set."""
    first = plain_jobs[0].settings
    made = pickle.dumps(OmegaConf.create(dict(first)))
    jobs = []
    for plain in plain_jobs:
        config: DictConfig = pickle.loads(made)
        for key in first.keys() - plain.settings.keys():
            del config[key]
        for key, value in plain.settings.items():
            if key not in first or repr(value) != repr(first[key]):  # unlike ==, repr distinguishes 1 and 1.0
                config[key] = value
        remember_all(plain.secrets)
        jobs.append(replace(plain, settings=plain.interpolated(config)))
    return jobs


def train_chunk(
    jobs: Sequence[Job],
    look: Callable[[int, int], None],
    pictures_of: PicturesOf = plot_here,
    say: Callable[[str], None] = log.warning,
) -> Iterator[tuple[int, Summary]]:
    """Train `jobs` as one stack, and yield the number and the summary of each when its folder is complete.

    `say` gets the lines that the user should see meanwhile.

    Raises:
        NotStackableError: the networks cannot be one stack; nothing has been written.
    """
    trials = [StackedTrial(job) for job in jobs]
    try:
        for trial in _train(trials, look, pictures_of, say):
            yield trial.job.number, trial.summary
    finally:
        for trial in trials:
            trial.close()


def _train(
    trials: Sequence[StackedTrial],
    look: Callable[[int, int], None],
    pictures_of: PicturesOf,
    say: Callable[[str], None],
) -> Iterator[StackedTrial]:
    networks: dict[int, nn.Module] = {}
    unfinished: dict[int, Unfinished] = {}
    ready: list[StackedTrial] = []
    for trial in trials:
        try:
            trial.create()
            number = trial.job.number
            with restored():
                data = load_data(trial.config)
                networks[number] = trial.build(data)
                unfinished[number] = Unfinished(trial.job)
                networks[number] = _go_on(trial, networks[number], unfinished[number], say)
            ready.append(trial)
        except UserError as error:
            trial.fail(error)
            yield trial
    if not ready:
        return
    rules = {trial.job.number: rule for trial in ready if (rule := _pruning_of(trial.job)) is not None}
    for trial in ready:
        if trial.going_on is not None and trial.job.number in rules:
            rules[trial.job.number].go_on(trial.going_on.rows, trial.going_on.rungs)

    def keep(trial: StackedTrial, network: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
        rule = rules.get(trial.job.number)
        state = trial.state(network, moments, {} if rule is None else rule.rungs())
        unfinished[trial.job.number].write(state, data)

    def is_behind(trial: StackedTrial) -> bool:
        rule, row = rules.get(trial.job.number), trial.history.rows[-1]
        if rule is None or not rule.ends(int(row["epoch"]), row, trial.config.trainer.max_epochs):
            return False
        trial.log(f"epoch {row['epoch']}: behind the other trials: the training ends here")
        return True

    def training_of(trials: Sequence[StackedTrial]) -> Training:
        of_trials = [networks[trial.job.number] for trial in trials]
        return Training(trials, of_trials, data, look=look, after_epoch=is_behind, keep=keep)

    try:
        trainings = [training_of(in_step) for in_step in _by_epoch_reached(ready)]
    except UserError as error:
        raise NotStackableError(str(error)) from error
    is_interrupted = False
    for training in trainings:
        is_interrupted = not training.run(is_interrupted)
    draw(ready, pictures_of)
    for trial in finish(ready):
        if trial.status != Status.INTERRUPTED:
            unfinished[trial.job.number].remove()
        read = partial(load, trial.run.path, trust=True)
        for line in draw_own_figures(trial.config.get("figures"), trial.run.path, read):
            trial.log(line)
            trial.write_log()
        yield trial


def _go_on(trial: StackedTrial, network: nn.Module, unfinished: Unfinished, say: Callable[[str], None]) -> nn.Module:
    """Restore the state that a killed process has written, if any; return the network to train."""
    try:
        state = unfinished.read(trial.data)
        if state is not None:
            trial.go_on(state, network)
        return network
    except ValueError as error:
        file = unfinished.path
        trial.log(f"the training starts again, because its state in {file.name} cannot be used and is removed: {error}")
        say(
            f"{shown(trial.job.folder)} starts again, because its state in {shown(file)} cannot be used and is "
            f"removed: {error}"
        )
        unfinished.remove()
        return trial.begin_anew(trial.data)


def _by_epoch_reached(trials: Sequence[StackedTrial]) -> list[list[StackedTrial]]:
    """Group the trials that have reached the same epoch, and so can be one stack; ended ones go into any group."""
    by_epoch: dict[int, list[StackedTrial]] = {}
    for trial in trials:
        if trial.status is None:
            by_epoch.setdefault(0 if trial.going_on is None else trial.going_on.epoch, []).append(trial)
    groups = list(by_epoch.values()) or [[]]
    groups[0] += [trial for trial in trials if trial.status is not None]
    return groups


def _pruning_of(job: Job) -> "Pruning | None":
    """Return the pruning rule of the job's sweep; Optuna is imported only if the sweep prunes."""
    if job.sweep is None:
        return None
    folder = TrialFolder.at(job.folder, job.sweep["folder"])
    definition = _definition_of(job.sweep["id"], folder.sweep)
    if definition.pruner is None:
        return None
    from bnlab.search.study.pruning import pruning_of

    return pruning_of(folder, definition, job.config.objective)


@cache
def _definition_of(sweep_id: str, folder: SweepFolder) -> Definition:
    return folder.read_definition()


def train_alone(job: Job, reason: str) -> Summary:
    """Train by Lightning, as `bnlab.engines.fit.fit` does."""
    try:
        RunFolder(job.folder).require_free()  # before a log is written there
    except UserError as error:
        return StackedTrial(job).fail(error)
    from rich.console import Console

    from bnlab.config.trainer import by_lightning
    from bnlab.training.lightning.fit import fit_by_lightning

    start = time.monotonic()
    signal.signal(signal.SIGINT, raise_interrupt)  # the parent sends it
    with logging_to(job.folder / "train.log"):
        try:
            log.info("trained alone, not in a stack: %s", reason)
            return fit_by_lightning(
                by_lightning(job.config),
                job.folder,
                overrides=job.overrides,
                command=job.command,
                sweep=job.sweep,
                console=Console(file=StringIO()),
                pruning=_pruning_of(job),
            )
        except UserInterrupt as error:
            return StackedTrial(job, begun=start).fail(error, Status.INTERRUPTED)
        except BaseException as error:
            log.error("the trial failed", exc_info=True)
            return StackedTrial(job, begun=start).fail(error)
        finally:
            leave_to_parent()
