"""The state of a stack's network from the checkpoints of its run, so that `trainer=quick` continues a run."""

from typing import Any

import torch

from bnlab.stacked.checkpoint import Snapshot
from bnlab.stacked.networks.optimizers import moment_names
from bnlab.stacked.state import State
from bnlab.stacked.trial import StackedTrial
from bnlab.training.resumed import Resumed

__all__ = ["state_of"]


def state_of(resumed: Resumed, trial: StackedTrial, num_samples: int) -> State:
    """Return the state from which `trial`, which is built, continues.

    Args:
        num_samples: of the training set.
    """
    (stored,) = resumed.checkpoint["optimizer_states"]
    history = trial.new_history()
    history.go_on(resumed.rows, resumed.seconds)
    of_best = None if history.best is None else resumed.best_checkpoint(history.best)
    moments = stored["state"]
    return State(
        rows=resumed.rows,
        lines=[],
        status=None,
        samples=resumed.epoch * num_samples,
        seconds=resumed.seconds,
        network=_weights(resumed.checkpoint),
        moments={
            name: torch.cat([moments[number][name].flatten() for number in sorted(moments)])
            for name in moment_names(trial.optimizer)
            if moments
        },
        best=None if of_best is None else _snapshot(of_best, resumed),
        last=None,
        rungs={},
    )


def _weights(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("network."): value for name, value in checkpoint["state_dict"].items()}


def _snapshot(checkpoint: dict[str, Any], resumed: Resumed) -> Snapshot:
    epoch = checkpoint["epoch"] + 1
    before = int(resumed.rows[epoch - 2]["step"]) if epoch > 1 else 0
    weights, (optimizer,), schedules = _weights(checkpoint), checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
    return Snapshot(
        epoch=epoch,
        step=checkpoint["global_step"],
        steps_in_epoch=checkpoint["global_step"] - before,
        network=lambda: weights,
        optimizer=lambda: optimizer,
        scheduler=schedules[0] if schedules else None,
    )
