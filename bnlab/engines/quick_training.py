"""Train and test one network by the engine of stacks, for `trainer=quick`."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from bnlab.curves import Curves
from bnlab.data import Splits
from bnlab.engines.quick_resuming import state_of
from bnlab.errors import UserError
from bnlab.internals.torch_internals import skip_compiler_import
from bnlab.network import num_parameters
from bnlab.runs.folder import RunFolder
from bnlab.runs.progress import RunProgress
from bnlab.runs.summary import Summary
from bnlab.stacked.data import Data, load_data
from bnlab.stacked.evaluation import DTYPES, criterion_of, evaluate, stacked_model
from bnlab.stacked.finishing import draw
from bnlab.stacked.job import Job
from bnlab.stacked.networks.module import StackedModule
from bnlab.stacked.training import Interrupted, Training
from bnlab.stacked.trial import StackedTrial
from bnlab.status import Status
from bnlab.training.interrupt import InterruptRequest
from bnlab.training.own_metrics import OwnMetrics
from bnlab.training.resumed import Resumed
from bnlab.training.threads import suitable_num_threads, use_threads

if TYPE_CHECKING:
    from bnlab.search.study.pruning import Pruning

__all__ = ["NotQuickError", "tester", "train_quickly"]

log = logging.getLogger(__name__)


class NotQuickError(Exception):
    """The network or its optimizer has no stacked form; the message says why."""


class _QuickTrial(StackedTrial):
    """A trial that logs through `logging`, because the caller owns the log file."""

    def log(self, message: str) -> None:
        log.info(message)

    def write_log(self) -> None:
        pass


def train_quickly(
    config: DictConfig,
    run: RunFolder,
    console: Console,
    pruning: "Pruning | None",
    summary: Summary,
    pictures_of: Callable[[Sequence[Curves]], Iterable[bytes]],
    resumed: Resumed | None = None,
) -> None:
    """Train and test, write all files of the run's folder except the summary, and fill `summary`.

    Raises:
        NotQuickError: there is no stacked form; nothing has been written.
        UserError: a setting cannot work; this is found before any training.
    """
    skip_compiler_import()
    data = load_data(config, is_beginning=True)
    trial = _QuickTrial(Job(0, config, run.path))
    trial.run = run  # the caller has locked it
    network = trial.build(data)
    if resumed is not None:
        resumed.check_network(network)
        resumed.check_optimizer(trial.optimizer)
        try:
            trial.go_on(state_of(resumed, trial, len(data.splits.train)), network, as_recorded=False)
        except ValueError as error:
            raise UserError(f"The run in {str(resumed.source.path)!r} cannot be resumed: {error}.") from error
        has_stopped = resumed.is_of(run) and trial.has_stopped_early
        limits = (resumed.epoch, config.trainer.max_epochs), (trial.steps, config.trainer.max_steps)
        if has_stopped or any(reached == limit for reached, limit in limits):  # it was killed after its end
            trial.end_training(Status.COMPLETED)
    progress = RunProgress(console, max_epochs=config.trainer.max_epochs, max_steps=config.trainer.max_steps)
    batch_size = len(data.splits.train) if trial.batch_size is None else trial.batch_size

    def is_behind(trial: StackedTrial) -> bool:
        row = trial.history.rows[-1]
        progress.end_epoch(row)
        return pruning is not None and pruning.ends(int(row["epoch"]), row, config.trainer.max_epochs)

    def look(epoch: int, num_trials: int) -> None:
        progress.update(epoch, training.num_steps)
        if interrupt.is_requested:
            raise Interrupted

    with InterruptRequest() as interrupt, use_threads(_num_threads(config, network, batch_size)):
        try:
            training = Training([trial], [network], data, look=look, after_epoch=is_behind, keeps_last=True)
        except UserError as error:
            raise NotQuickError(str(error)) from error
        with progress.begin(training.steps_per_epoch):
            try:
                training.run()
            except BaseException:
                _write_partial_results(trial)
                raise
        draw([trial], pictures_of)
        trial.write_results()
    found = trial.summary
    found.pop("command")  # the caller knows the command
    summary |= found
    if trial.status == Status.FAILED:
        raise UserError(trial.summary["error"])


def _write_partial_results(trial: StackedTrial) -> None:
    trial.end_training(Status.FAILED)
    if trial.history.rows:
        trial.write_progress()


def _num_threads(config: DictConfig, network: nn.Module, batch_size: int) -> int:
    return suitable_num_threads(config.get("num_threads", "auto"), num_parameters(network), batch_size)


def tester(config: DictConfig, network: nn.Module) -> tuple[Splits, str, Callable[[], dict[str, float]]]:
    """Return the data of a run, their fingerprint, and a function that tests `network` on them.

    Its metrics equal those of `train_quickly` bit for bit.

    Raises:
        NotQuickError: the network has no stacked form.
        UserError: the data are missing.
    """
    data: Data = load_data(config, is_beginning=True)
    dtype = DTYPES[str(config.trainer.precision)]
    own = OwnMetrics(config, data.splits.target_scale if data.splits.num_classes is None else None)
    criterion, scale = criterion_of(data.splits, keeps_outputs=bool(own))
    model = stacked_model([network], dtype, criterion)
    split = model.prepare(data.split("test", dtype, torch.device("cpu")))
    if isinstance(model, StackedModule):
        try:
            model.try_out(split.x[:2], data.splits.num_outputs)
        except UserError as error:
            raise NotQuickError(str(error)) from error
    size = config.data.batch_size
    batch_size = len(data.splits.train) if size == "full" else int(size)

    @torch.no_grad()
    def test() -> dict[str, float]:
        with use_threads(_num_threads(config, network, batch_size)):
            (metrics,) = evaluate(model, split, "test", scale, [own] if own else [])
        return metrics | {f"test_{name}": value for name, value in own.compute().items()}

    return data.splits, data.fingerprint, test
