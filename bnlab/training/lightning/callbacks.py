"""Build the callbacks of a config and refuse those that cannot work in a run."""

from collections.abc import Sequence
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    DeviceStatsMonitor,
    EarlyStopping,
    LambdaCallback,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
    ThroughputMonitor,
)
from omegaconf import DictConfig

from bnlab.config.build import arguments_of
from bnlab.errors import UserError, user_errors
from bnlab.internals.hydra_internals import instantiate
from bnlab.metrics import columns_of
from bnlab.preflight.callbacks import check_monitor, needs_a_logger, refused

__all__ = ["build_callbacks"]

_REFUSED = (BatchSizeFinder, LearningRateFinder, ModelPruning, StochasticWeightAveraging)
_FOR_A_LOGGER = (LearningRateMonitor, DeviceStatsMonitor)


def build_callbacks(config: DictConfig, folder: Path) -> list[L.Callback]:
    """Build `config.callbacks`; a `ModelCheckpoint` gets its own folder, named after it, in `folder`.

    Raises:
        UserError: a class does not exist, is no callback, or cannot work in a run of this config.
    """
    built: dict[str, L.Callback] = {}
    for name, node in config.callbacks.items():
        with user_errors(f"`callbacks.{name}`: "):
            callback = instantiate(arguments_of(node), _convert_="all")
        kind = str(node._target_).rpartition(".")[2]
        if not isinstance(callback, L.Callback):
            raise UserError(f"`callbacks.{name}` must be a Callback of Lightning's, but got {node._target_}.")
        for which in _REFUSED:
            if isinstance(callback, which):
                raise refused(str(name), kind, which.__name__)
        for for_a_logger in _FOR_A_LOGGER:
            if isinstance(callback, for_a_logger) and config.logger._target_ is None:
                raise needs_a_logger(str(name), kind, for_a_logger.__name__)
        if isinstance(callback, ThroughputMonitor) and not callable(callback.batch_size_fn):
            raise UserError(
                f"`callbacks.{name}.batch_size_fn` must be a function of a batch, but got {callback.batch_size_fn!r}: "
                "{_target_: hydra.utils.get_method, path: MODULE.FUNCTION} names one."
            )
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(folder / "checkpoints" / str(name))  # apart from best.ckpt, which is ours
        built[str(name)] = callback
    for name, callback in built.items():
        _check_monitor(name, callback, list(built.values()), columns_of(config))
    return list(built.values())


def _check_monitor(name: str, callback: L.Callback, callbacks: list[L.Callback], metrics: Sequence[str]) -> None:
    if isinstance(callback, EarlyStopping | ModelCheckpoint) and not any(map(_may_log, callbacks)):
        check_monitor(name, callback.monitor, metrics, logs_steps=isinstance(callback, ModelCheckpoint))


def _may_log(callback: L.Callback) -> bool:
    return isinstance(callback, LambdaCallback) or not type(callback).__module__.startswith("lightning.")
