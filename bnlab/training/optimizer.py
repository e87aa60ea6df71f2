"""Build optimizers and learning-rate schedules from flat scalars, so that each can be swept by its own key."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from bnlab.errors import UserError
from bnlab.internals.hydra_internals import instantiate

__all__ = ["build_optimizer", "build_scheduler", "check_length", "inverse_time", "step_schedule", "try_out"]


def build_optimizer(config: DictConfig, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Build the optimizer of `config` over `parameters`; `beta1` and `beta2` become `betas=(beta1, beta2)`."""
    arguments: dict[str, Any] = dict(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    if "beta1" in arguments and "beta2" in arguments:
        if "betas" in arguments:
            raise UserError(
                f"`optimizer.betas` must be left out where there are beta1 and beta2, but got {arguments['betas']}: "
                "set these, or remove them with ~optimizer.beta1 ~optimizer.beta2."
            )
        arguments["betas"] = (float(arguments.pop("beta1")), float(arguments.pop("beta2")))  # torch refuses integers
    optimizer = instantiate(arguments, params=list(parameters), _convert_="all")
    if not isinstance(optimizer, Optimizer):
        raise UserError(f"`optimizer` must make an optimizer of torch's, but {arguments.get('_target_')} does not.")
    return optimizer


def try_out(config: DictConfig, device: torch.device) -> None:
    """Make a step on a dummy parameter, because torch refuses some arguments only then (`capturable` on a CPU)."""
    weight = nn.Parameter(torch.zeros(1, 1, device=device))
    weight.grad = torch.zeros_like(weight)
    optimizer = build_optimizer(config, [weight])
    if type(optimizer).__module__.startswith("torch."):  # others may need more than a gradient
        optimizer.step(lambda: 0.0)


def build_scheduler(config: DictConfig, optimizer: Optimizer) -> LRScheduler | None:
    """Build the schedule of `config`, which steps once per epoch; None, for a constant rate, if `_target_` is null."""
    if config._target_ is None:
        return None
    arguments: dict[str, Any] = dict(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    scheduler = instantiate(arguments, optimizer=optimizer, _convert_="all")
    if not isinstance(scheduler, LRScheduler):
        raise UserError(f"`scheduler` must make a schedule of torch's, but {config._target_} does not.")
    return scheduler


def check_length(scheduler: LRScheduler | None, num_epochs: int) -> None:
    """Refuse a schedule that is too short.

    Raises:
        UserError: a one-cycle schedule ends before the training of `num_epochs` does.
    """
    if isinstance(scheduler, OneCycleLR) and scheduler.total_steps < num_epochs:
        raise UserError(
            f"`scheduler.total_steps` must be at least the {num_epochs} epochs of the training, as it steps once per "
            f"epoch, but got {scheduler.total_steps}."
        )


def step_schedule(scheduler: LRScheduler | None, row: Mapping[str, float]) -> None:
    """Step a schedule at the end of the epoch with this row of metrics, as Lightning does."""
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(float(np.float32(row["val_loss"])))  # Lightning logs in fp32
    elif scheduler is not None:
        scheduler.step()


def inverse_time(optimizer: Optimizer, decay_rate: float) -> LambdaLR:
    """Schedule lr = lr_0 / (1 + decay_rate * epoch)."""
    return LambdaLR(optimizer, lambda epoch: 1 / (1 + decay_rate * epoch))
