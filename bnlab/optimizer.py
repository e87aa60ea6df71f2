"""Optimizers and learning-rate schedules from flat scalars, each of which can be swept by its own key."""

from collections.abc import Iterable
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from bnlab.target import build_target

__all__ = ["build_optimizer", "build_scheduler", "inverse_time"]


def build_optimizer(config: DictConfig, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimizer `config` names, over `parameters`. Scalars `beta1` and `beta2` become `betas=(beta1, beta2)`."""
    arguments: dict[str, Any] = dict(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    if "beta1" in arguments and "beta2" in arguments:
        arguments["betas"] = (arguments.pop("beta1"), arguments.pop("beta2"))
    return build_target(arguments, params=list(parameters))


def build_scheduler(config: DictConfig, optimizer: Optimizer) -> LRScheduler | None:
    """The schedule `config` names, a step an epoch; None where its `_target_` is null: the rate stays."""
    if config._target_ is None:
        return None
    arguments: dict[str, Any] = dict(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    return build_target(arguments, optimizer=optimizer)


def inverse_time(optimizer: Optimizer, decay_rate: float) -> LambdaLR:
    """lr = lr_0 / (1 + decay_rate * epoch)."""
    return LambdaLR(optimizer, lambda epoch: 1 / (1 + decay_rate * epoch))
