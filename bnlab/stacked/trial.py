"""One trial of a stack, from its config to its run folder."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from bnlab.config.build import arguments_of, build_network, check_batch_sizes
from bnlab.config.checking import check
from bnlab.data import Batches
from bnlab.errors import UserError, one_line, user_errors
from bnlab.internals.torch_internals import mark_as_stepped
from bnlab.io.atomic_file import write_bytes, write_text
from bnlab.io.log_file import LINE
from bnlab.metrics import columns_of, minimizes
from bnlab.process.outside import is_outside
from bnlab.runs.folder import RunFolder
from bnlab.runs.history import History
from bnlab.runs.summary import Summary, beginning, ending
from bnlab.stacked.checkpoint import Snapshot, SnapshotAmidEpoch, write_checkpoint
from bnlab.stacked.data import Data
from bnlab.stacked.early_stopping import EarlyStopping
from bnlab.stacked.job import Job
from bnlab.stacked.networks.optimizers import moment_names
from bnlab.stacked.state import State
from bnlab.status import Status
from bnlab.training.optimizer import build_optimizer, build_scheduler, check_length, step_schedule
from bnlab.training.own_metrics import OwnMetrics

__all__ = ["StackedTrial"]


@dataclass
class StackedTrial:
    """A network that trains in a stack, with its optimizer, schedule, history and folder.

    Attributes:
        begun: the start of the training, by `time.monotonic`.
        last_whole: its state after the newest epoch, if `last` is from the middle of the next one.
        best, last: its state after the best epoch and after the newest.
        status: the status in summary.json; None during training.
        has_stopped_early: whether early stopping ended it with the last epoch of the state that it continued from.
        going_on: the state from which it continues; None for a new training, and once the state has been restored.
    """

    job: Job
    begun: float = field(default_factory=time.monotonic)
    steps: int = 0
    samples: int = 0
    status: Status | None = None
    best: Snapshot | None = None
    last: Snapshot | None = None
    last_whole: Snapshot | None = None
    has_stopped_early: bool = False
    test_metrics: dict[str, float] = field(default_factory=dict)
    picture: bytes | None = None
    going_on: State | None = None
    _written: Snapshot | None = None
    _is_created: bool = False
    _lines: list[str] = field(default_factory=list)
    _training_ended: float | None = None
    _alone: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.config = self.job.config
        self.run = RunFolder(self.job.folder)
        self.summary: Summary = beginning(self.config, self.job.overrides, self.job.command, self.job.sweep)
        self.history = self.new_history()

    def new_history(self) -> History:
        return History(self.config.objective, minimize=minimizes(self.config))

    def create(self) -> None:
        """Check the config and make the folder, which stays locked until `close`.

        Raises:
            UserError: the config cannot work, or the folder cannot be written.
        """
        check(self.config)
        self._alone.enter_context(self.run.locked())
        self.run.create(self.config, self.job.overrides)
        self._is_created = True

    def close(self) -> None:
        """Unlock the folder."""
        self._alone.close()

    def build(self, data: Data) -> nn.Module:
        """Build the network with its initial weights, its optimizer and its schedule, which the trial keeps.

        Raises:
            UserError: a setting cannot work; this is found before any training.
        """
        config, splits = self.config, data.splits
        self.data = data
        network = build_network(config, splits.sample_shape, splits.num_outputs)
        check_batch_sizes(network, Batches(splits.train, self.batch_size).sizes)
        with user_errors("`optimizer`, `scheduler`: "):
            self.optimizer: Optimizer = build_optimizer(config.optimizer, network.parameters())
            mark_as_stepped(self.optimizer)
            self.scheduler: LRScheduler | None = build_scheduler(config.scheduler, self.optimizer)
            check_length(self.scheduler, config.trainer.max_epochs)
        with user_errors("`callbacks`: "):
            self.stoppings = [EarlyStopping.of(arguments_of(callback)) for callback in config.callbacks.values()]
        self.own_metrics = OwnMetrics(config, splits.target_scale if splits.num_classes is None else None)
        self.num_parameters = sum(parameter.numel() for parameter in network.parameters())
        return network

    def state(self, network: dict[str, Tensor], moments: dict[str, Tensor], rungs: dict[str, float]) -> State:
        """Return the state for another process to continue from, given the numbers of the network and its optimizer."""
        return State(
            rows=self.history.rows,
            lines=self._lines,
            status=self.status,
            samples=self.samples,
            seconds=time.monotonic() - self.begun,
            network=network,
            moments=moments,
            best=self.best,
            last=None if self.status is None else self.last,
            rungs=rungs,
        )

    def go_on(self, state: State, network: nn.Module, *, as_recorded: bool = True) -> None:
        """Continue from `state`; `network` and this trial must be as `build` made them.

        Args:
            as_recorded: the config is the one that made the state, as its learning rates are to show.
        Raises:
            ValueError: it is not the state of such a trial; this trial must then be built again.
        """
        shapes = {name: value.shape for name, value in network.state_dict().items()}
        snapshots = [snapshot for snapshot in (state.best, state.last) if snapshot is not None]
        networks = [snapshot.network() for snapshot in snapshots]
        if state.status is None:
            networks.append(state.network)
            _require_shapes(state.moments, dict.fromkeys(moment_names(self.optimizer), (self.num_parameters,)))
        for of_network in networks:
            _require_shapes(of_network, shapes)
        columns = {"epoch", "step", "lr", *columns_of(self.config), "seconds"}
        if any(row.keys() != columns for row in state.rows):
            raise ValueError("its rows have other metrics")
        self.history.go_on(state.rows, state.seconds)
        for row in state.rows if state.status is None else ():
            if as_recorded and row["lr"] != self.lr:
                raise ValueError(f"the learning rate of epoch {row['epoch']} was {row['lr']}, not {self.lr}")
            self.schedule(row, after_the_checkpoints=False)
            self.schedule(row, after_the_checkpoints=True)
            self.has_stopped_early = True in [stopping.should_stop(row) for stopping in self.stoppings]
            if self.has_stopped_early and as_recorded:
                raise ValueError(f"early stopping should have ended the training in epoch {row['epoch']}")
        is_diverged, best = self.history.diverged_epoch is not None, self.history.best
        if is_diverged != (state.status == Status.DIVERGED) or self.history.diverged_epoch not in (None, state.epoch):
            raise ValueError("its status contradicts its rows")
        if (best and best["epoch"]) != (state.best and state.best.epoch):
            raise ValueError("its best epoch contradicts its rows")
        self.begun = time.monotonic() - state.seconds
        self.steps, self.samples, self.status = state.steps, state.samples, state.status
        self.best, self.last, self.going_on = state.best, state.last, state
        self._training_ended = None if self.status is None else time.monotonic()
        self._lines = [*state.lines, *self._lines]
        self.log(f"continues after epoch {state.epoch}" if self.status is None else "continues with its test")

    def begin_anew(self, data: Data) -> nn.Module:
        """Build the network again after `go_on` has failed."""
        self.history = self.new_history()
        return self.build(data)

    @property
    def batch_size(self) -> int | None:
        size = self.config.data.batch_size
        return None if size == "full" else int(size)

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def schedule(self, row: Mapping[str, float], *, after_the_checkpoints: bool) -> None:
        """Set the learning rate of the epoch after `row`, when Lightning does so: later for a plateau schedule."""
        if isinstance(self.scheduler, ReduceLROnPlateau) == after_the_checkpoints:
            step_schedule(self.scheduler, row)

    def log(self, message: str) -> None:
        record = logging.LogRecord("bnlab.stacked", logging.INFO, "", 0, message, None, None)
        self._lines.append(LINE.format(record))

    def end_epoch(self, lr: float, metrics: Mapping[str, float], snapshot: Callable[[], Snapshot]) -> None:
        """Record an epoch and decide whether it was the last. `snapshot` returns the network's state."""
        epoch = len(self.history.rows) + 1
        improved = self.history.add(epoch, self.steps, lr, metrics)
        self.log(f"epoch {epoch}: " + ", ".join(f"{name} {value:.5g}" for name, value in sorted(metrics.items())))
        if improved:
            self.best = snapshot()
        if self.status is not None:  # a metric has failed and ended the training
            return
        if self.history.diverged_epoch is not None:
            self.log(f"the loss of epoch {epoch} is not finite: the training diverged and ends here")
            self.status = Status.DIVERGED
        elif True in [stopping.should_stop(self.history.rows[-1]) for stopping in self.stoppings]:  # all see each row
            self.log(f"epoch {epoch}: early stopping ends the training here")
            self.status = Status.COMPLETED

    def break_off(self, error: UserError) -> None:
        """Fail, while the other networks of the stack continue."""
        self.log(str(error))
        self.summary["error"] = str(error)
        self.status = Status.FAILED

    def end_training(self, status: Status) -> None:
        self._training_ended = time.monotonic()
        self.status = status

    def write_progress(self) -> None:
        """Write the files that can be written while training."""
        if self.history.rows:
            self.run.write_metrics(self.history.rows)
        self.write_log()
        statistics = self.data.statistics()
        if isinstance(self.last, SnapshotAmidEpoch):
            self.run.keep_epoch()  # an earlier process may have written it
            if self.last_whole is not None:
                write_checkpoint(self.run.epoch_checkpoint, self.last_whole, statistics)
        # In this order: a run that is killed in between has its best weights in last.ckpt.
        if self.last is not None:
            write_checkpoint(self.run.last_checkpoint, self.last, statistics)
        if self.best is not None and self.best is not self._written:
            write_checkpoint(self.run.best_checkpoint, self.best, statistics)
            self._written = self.best
        if not isinstance(self.last, SnapshotAmidEpoch):
            self.run.forget_epoch()

    def write_log(self) -> None:
        write_text(self.run.path / "train.log", "".join(f"{line}\n" for line in self._lines))

    def write_results(self) -> None:
        """Write all files of the folder but summary.json, whose presence says that all others are complete."""
        assert self.status is not None
        assert self._training_ended is not None
        self.write_progress()
        if self.picture is not None:
            write_bytes(self.run.curves, self.picture)
        self.summary |= ending(
            self.history,
            self.config,
            status=self.status,
            steps=self.steps,
            test_metrics=self.test_metrics,
            num_parameters=self.num_parameters,
            samples_per_second=self.samples / max(self._training_ended - self.begun, 1e-9),
            splits=self.data.splits,
            fingerprint=self.data.fingerprint,
        )

    def fail(self, error: BaseException, status: Status = Status.FAILED) -> Summary:
        """Write why there are no results, unless the folder belongs to another run or the disk is full."""
        self.summary |= {"status": status, "error": one_line(error)}
        if is_outside(error):
            self.summary["outside"] = True
            with suppress(OSError):
                self._write_failure()
        else:
            self._write_failure()
        return self.summary

    def _write_failure(self) -> None:
        if self._is_created:
            self.write_summary()
        elif self.run.path.is_dir():
            with suppress(UserError), self.run.locked():
                self.run.require_free()
                self.write_summary()

    def write_summary(self) -> None:
        self.summary["seconds"] = time.monotonic() - self.begun
        self.run.write_summary(self.summary)


def _require_shapes(tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> None:
    """Check names and shapes.

    Raises:
        ValueError: they differ.
    """
    if tensors.keys() != shapes.keys():
        raise ValueError("its tensors have other names")
    for name, shape in shapes.items():
        if tensors[name].shape != torch.Size(shape) or tensors[name].layout is not torch.strided:
            raise ValueError(f"its {name} has another shape")
