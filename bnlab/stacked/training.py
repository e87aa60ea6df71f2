"""The loop that trains the networks of a stack together, from their first epoch to their folders."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from bnlab.errors import UserError, one_line
from bnlab.stacked.checkpoint import Snapshot, SnapshotAmidEpoch
from bnlab.stacked.data import Data
from bnlab.stacked.evaluation import DTYPES, collect, criterion_of, evaluate, stacked_model
from bnlab.stacked.formulas.metrics import StackedMetrics
from bnlab.stacked.networks.batches import StackedBatches
from bnlab.stacked.networks.module import StackedModule
from bnlab.stacked.networks.optimizers import StackedOptimizer, clip_gradients, why_not_stacked
from bnlab.stacked.pace import Pace
from bnlab.stacked.trial import StackedTrial
from bnlab.status import Status
from bnlab.training.own_metrics import OwnMetrics

__all__ = ["Interrupted", "Training"]

LOOK_EVERY_S = 0.2
_COPIES = 4  # in last.ckpt and best.ckpt, and in what is kept for another process


Keep = Callable[[StackedTrial, dict[str, Tensor], dict[str, Tensor]], None]


class Interrupted(Exception):  # noqa: N818  # a request, not an error
    """The caller has asked the training to end."""


class Training:
    """Trains K trials that differ only in numbers as one stack.

    Each has the batches, the updates, the schedule and the end that it has in a training of its own. One that ends
    before the others leaves, and the rest go on smaller. Those that go on from a state (`StackedTrial.go_on`) have all
    come to the same epoch, or to their end.

    Args:
        trials: built (`StackedTrial.build`), all of one group (`bnlab.stacked.grouping`).
        networks: of the trials.
        data: what they train on.
        device: where.
        look: called every 0.2 s with the epoch and the trials under way; raises `Interrupted` to end the training.
        after_epoch: called with each trial that goes on after an epoch; true ends it as pruned.
        keep: called now and then with each trial, the numbers of its network and those of its optimizer, for another
            process to go on with; an OSError ends nothing. None: nothing is kept.
        keeps_last: let each trial have the state after its newest epoch at any time, and after the step at which an
            interruption ends it.
    Raises:
        UserError: the networks or their optimizers have no stacked form; before anything is written.
    """

    def __init__(
        self,
        trials: Sequence[StackedTrial],
        networks: Sequence[nn.Module],
        data: Data,
        *,
        device: torch.device | None = None,
        look: Callable[[int, int], None] = lambda epoch, num_trials: None,
        after_epoch: Callable[[StackedTrial], bool] = lambda trial: False,
        keep: Keep | None = None,
        keeps_last: bool = False,
    ) -> None:
        device = device or torch.device("cpu")
        settings = trials[0].config.trainer
        dtype = DTYPES[str(settings.precision)]
        self.all_trials = list(trials)
        self._trials = list(trials)
        self._networks = {id(trial): network for trial, network in zip(trials, networks, strict=True)}
        self._dtype = dtype
        self._criterion, self._scale = criterion_of(data.splits, keeps_outputs=bool(trials[0].config.get("metrics")))
        self._model = stacked_model(networks, dtype, self._criterion)
        if isinstance(self._model, StackedModule):
            self._model.try_out(data.split("train", dtype, device).x[:2], data.splits.num_outputs)
        for trial in trials:
            reason = why_not_stacked(trial.optimizer, trial.scheduler)
            if reason is not None:
                raise UserError(reason)
        self._optimizer = StackedOptimizer(
            [trial.optimizer for trial in trials], self._model.stack.rows, self._model.stack.gradients
        )
        self._max_epochs, self._max_steps = settings.max_epochs, settings.max_steps
        self._clip = settings.get("gradient_clip_algorithm") or "norm"
        self._train, self._val, self._test = (
            self._model.prepare(data.split(name, dtype, device)) for name in ("train", "val", "test")
        )
        self._batches = StackedBatches(self._train, trials[0].batch_size, [trial.config.seed for trial in trials])
        self._look, self._after_epoch, self._keep, self._keeps_last = look, after_epoch, keep, keeps_last
        self._epoch = 0
        self._amid = 0, 0  # steps and samples of the epoch under way
        self._next_look = 0.0
        rows = self._model.stack.rows
        self._pace = Pace(rows.nbytes * (1 + len(self._optimizer.states)) * _COPIES, time.monotonic())
        self._kept: set[int] = set()  # trials that have ended
        self._can_write = True
        self._has_logged_reason = False
        self._read_limits()
        self._go_on()

    @property
    def num_steps(self) -> int:
        """The number of steps so far."""
        return self._optimizer.num_steps

    @property
    def steps_per_epoch(self) -> int:
        return len(self._batches.sizes)

    def _go_on(self) -> None:
        """Restore the states from which the trials continue."""
        self._retain([index for index, trial in enumerate(self._trials) if trial.status is None])
        states = [trial.going_on for trial in self._trials if trial.going_on is not None]
        for trial in self.all_trials:
            trial.going_on = None
        if not states:
            return
        assert {(state.epoch, state.steps) for state in states} == {(states[0].epoch, states[0].steps)}
        assert len(states) == len(self._trials)
        self._epoch = states[0].epoch
        self._model.load([state.network for state in states])
        self._optimizer.load([state.moments for state in states], states[0].steps)
        self._optimizer.read()

    def _read_limits(self) -> None:
        limits = [trial.config.trainer.get("gradient_clip_val") for trial in self._trials]
        self._limits = None
        if any(limits):
            self._limits = torch.tensor(limits, dtype=torch.float64).to(self._model.stack.rows).unsqueeze(1)

    @torch.no_grad()
    def run(self, is_interrupted: bool = False) -> bool:
        """Train all trials to their end, and test the best weights of each that was not interrupted.

        Args:
            is_interrupted: end them where they stand.
        Returns:
            whether nothing interrupted it.
        """
        try:
            if is_interrupted:
                raise Interrupted
            while self._trials:
                self._run_epoch()
        except Interrupted:
            if self._keeps_last and self._amid[0]:
                self._keep_amid_epoch(*self._amid)
            for trial in self._trials:
                trial.end_training(Status.INTERRUPTED)
            self._trials = []
            is_interrupted = True
        self._test_best()
        return not is_interrupted

    def _run_epoch(self) -> None:
        model, optimizer = self._model, self._optimizer
        rates = [trial.lr for trial in self._trials]
        metrics, own = StackedMetrics(self._scale), self._own_metrics(self._trials)
        num_steps = num_samples = 0
        self._amid = 0, 0
        for x, y in self._batches.epoch(self._epoch):
            if self._limits is None:
                metrics.update(*model.step(x, y, optimizer), y.shape[-1])
            else:
                metrics.update(*model.step(x, y), y.shape[-1])
                clip_gradients(model.stack.gradients, self._limits, self._clip)
                optimizer.step()
            collect(model, y, own)
            num_steps += 1
            num_samples += y.shape[-1]
            self._amid = num_steps, num_samples
            if time.monotonic() > self._next_look:
                self._next_look = time.monotonic() + LOOK_EVERY_S
                self._look(self._epoch + 1, len(self._trials))
            if optimizer.num_steps == self._max_steps:
                break
        train = self._with_own(self._trials, metrics.compute("train"), own, "train")
        val = evaluate(self._model, self._val, "val", self._scale, own)
        val = self._with_own(self._trials, val, own, "val")
        model.sync()
        self._epoch += 1
        is_whole = num_steps == len(
            self._batches.sizes
        )  # an epoch that max_steps cuts short does not move the schedule
        is_last = self._epoch == self._max_epochs or optimizer.num_steps == self._max_steps
        for index, trial in enumerate(self._trials):
            trial.steps += num_steps
            trial.samples += num_samples
            if is_whole:
                trial.schedule(val[index], after_the_checkpoints=False)
            trial.end_epoch(rates[index], train[index] | val[index], partial(self._snapshot, index, num_steps))
            if trial.status is None and self._after_epoch(trial):
                trial.status = Status.PRUNED
            elif trial.status is None and is_last:
                trial.status = Status.COMPLETED
        for index, trial in enumerate(self._trials if self._keeps_last else ()):
            trial.last = self._snapshot(index, num_steps)
        self._remove_ended(num_steps)
        self._write_some(num_steps)
        for trial in self._trials:
            trial.schedule(trial.history.rows[-1], after_the_checkpoints=True)
        if self._trials:
            self._optimizer.read()

    def _keep_amid_epoch(self, num_steps: int, num_samples: int) -> None:
        """Give each trial its state after this many steps of an epoch that will not end."""
        self._model.sync()
        is_last = num_steps == len(self._batches.sizes)
        for index, trial in enumerate(self._trials):
            trial.steps += num_steps
            trial.samples += num_samples
            if is_last:  # Lightning does so before it validates
                trial.schedule({}, after_the_checkpoints=False)
            trial.last_whole = trial.last
            state = vars(self._snapshot(index, num_steps)) | {"epoch": self._epoch + 1}
            trial.last = SnapshotAmidEpoch(**state, is_last=is_last)

    def _test_best(self) -> None:
        """Test the best weights of each network that was not interrupted, again as one stack."""
        ended = (Status.INTERRUPTED, Status.FAILED)
        trials = [trial for trial in self.all_trials if trial.best is not None and trial.status not in ended]
        if not trials:
            return
        self._model = stacked_model([self._networks[id(trial)] for trial in trials], self._dtype, self._criterion)
        for index, trial in enumerate(trials):
            assert trial.best is not None
            self._model.stack.load_state_dict(index, trial.best.network())
        own = self._own_metrics(trials)
        tested = evaluate(self._model, self._test, "test", self._scale, own)
        for trial, metrics in zip(trials, self._with_own(trials, tested, own, "test"), strict=True):
            trial.test_metrics = metrics

    def _own_metrics(self, trials: Sequence[StackedTrial]) -> list[OwnMetrics]:
        """Those of each trial; none where the criterion keeps no outputs for them."""
        return [trial.own_metrics for trial in trials if self._criterion.keeps_outputs]

    @staticmethod
    def _with_own(
        trials: Sequence[StackedTrial], measured: Sequence[dict[str, float]], own: Sequence[OwnMetrics], stage: str
    ) -> list[dict[str, float]]:
        """The metrics `measured` of each trial, with those of its own; one that raises ends its trial alone."""
        found = list(measured)
        for index, (trial, metrics) in enumerate(zip(trials, own, strict=False)):
            try:
                values = metrics.compute()
            except UserError as error:
                trial.break_off(error)
                values = dict.fromkeys(trial.config.metrics, math.nan)
            found[index] = measured[index] | {f"{stage}_{name}": value for name, value in values.items()}
        return found

    def _snapshot(self, index: int, steps_in_epoch: int) -> Snapshot:
        trial, stack = self._trials[index], self._model.stack
        return Snapshot(
            epoch=self._epoch,
            step=trial.steps,
            steps_in_epoch=steps_in_epoch,
            network=stack.copy(index),
            optimizer=self._optimizer.copy(index, stack.shapes),
            scheduler=None if trial.scheduler is None else copy.deepcopy(trial.scheduler.state_dict()),
        )

    def _write_some(self, num_steps: int) -> None:
        """In a long training, write the progress for readers, and the states for another process to continue from."""
        begun = time.monotonic()
        if not self._trials or not self._pace.is_due(begun):
            return
        for index, trial in enumerate(self._trials):
            trial.last = self._snapshot(index, num_steps)
        try:
            self._keep_states()
            for trial in self._trials:
                trial.write_progress()
        except FileNotFoundError:  # somebody removed the folder
            raise
        except OSError as error:
            for trial in self._trials if self._can_write else ():
                trial.log(f"epoch {self._epoch} cannot be saved ({one_line(error)}): the training continues")
            self._can_write = False
        else:
            self._can_write = True
        self._pace.wrote(begun, time.monotonic())

    def _keep_states(self) -> None:
        if self._keep is None:
            return
        if not self._model.is_all_in_stack():
            for trial in self._trials if not self._has_logged_reason else ():
                trial.log(
                    "not saved for another process: a module keeps what training changes in attributes, not in buffers"
                )
            self._has_logged_reason = True
            return
        for trial in self.all_trials:
            if trial.status not in (None, Status.FAILED) and id(trial) not in self._kept:
                self._keep(trial, {}, {})
                self._kept.add(id(trial))
        for index, trial in enumerate(self._trials):
            self._keep(trial, self._model.stack.state_dict(index), self._optimizer.moments(index))

    def _remove_ended(self, num_steps: int) -> None:
        """Remove the trials that have ended from the stack."""
        for index, trial in enumerate(self._trials):
            if trial.status is not None:
                trial.last = self._snapshot(index, num_steps)
                trial.end_training(trial.status)
        self._retain([index for index, trial in enumerate(self._trials) if trial.status is None])

    def _retain(self, staying: Sequence[int]) -> None:
        """Keep only the trials at these indices."""
        if len(staying) == len(self._trials):
            return
        self._trials = [self._trials[index] for index in staying]
        if staying:
            self._model.keep(staying)
            self._optimizer.keep(staying, self._model.stack.rows, self._model.stack.gradients)
            self._batches.keep(staying)
            self._read_limits()
