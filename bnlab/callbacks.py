"""The callbacks of a config, each of which has a place in a run or is refused before it trains."""

from collections.abc import Sequence
from pathlib import Path

import lightning as L
from hydra.utils import instantiate
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
)
from omegaconf import DictConfig

from bnlab.build import arguments_of
from bnlab.errors import UserError, user_errors
from bnlab.task import metric_names, score_of

__all__ = ["build_callbacks"]

_REFUSED: dict[type[L.Callback], str] = {
    BatchSizeFinder: "what it finds would be in no config: compare sizes with -m data.batch_size=64,256,full",
    LearningRateFinder: "what it finds would be in no config: search with -m search=random search/space=learning_rate",
    ModelPruning: "it prunes what was validated before best.ckpt is saved, which would hold other weights",
    StochasticWeightAveraging: (
        "its averages are neither validated nor in best.ckpt: use lightning.pytorch.callbacks.WeightAveraging"
    ),
}
_FOR_A_LOGGER: dict[type[L.Callback], str] = {
    LearningRateMonitor: "the rate of each epoch is in metrics.csv",
    DeviceStatsMonitor: "there is nothing else that it writes to",
}


def build_callbacks(config: DictConfig, folder: Path) -> list[L.Callback]:
    """Those of `config.callbacks`; a `ModelCheckpoint` has a folder of its own, named after it, in `folder`.

    Raises:
        UserError: a class that is not there, is no callback, or cannot do its work in a run of this config.
    """
    built: dict[str, L.Callback] = {}
    for name, node in config.callbacks.items():
        with user_errors(f"`callbacks.{name}`: "):
            callback = instantiate(arguments_of(node), _convert_="all")
        kind = str(node._target_).rpartition(".")[2]
        if not isinstance(callback, L.Callback):
            raise UserError(f"`callbacks.{name}` must be a Callback of Lightning's, but got {node._target_}.")
        for refused, why in _REFUSED.items():
            if isinstance(callback, refused):
                raise UserError(f"`callbacks.{name}` must not be a {kind}; {why}.")
        for for_a_logger, instead in _FOR_A_LOGGER.items():
            if isinstance(callback, for_a_logger) and config.logger._target_ is None:
                raise UserError(
                    f"`callbacks.{name}`, a {kind}, must have a logger to write to, but got logger=csv ({instead}): "
                    "choose logger=tensorboard or another."
                )
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(folder / "checkpoints" / str(name))  # beside best.ckpt, which is not its own
        built[str(name)] = callback
    for name, callback in built.items():
        _check_monitor(name, callback, list(built.values()), metric_names(score_of(config)))
    return list(built.values())


def _check_monitor(name: str, callback: L.Callback, callbacks: list[L.Callback], metrics: Sequence[str]) -> None:
    """A metric that nobody logs would be missed after an epoch only."""
    if not isinstance(callback, EarlyStopping | ModelCheckpoint) or callback.monitor is None:
        return
    known = [*metrics, *(["epoch", "step"] if isinstance(callback, ModelCheckpoint) else [])]
    if callback.monitor not in known and not any(map(_may_log, callbacks)):
        raise UserError(f"`callbacks.{name}.monitor` must be one of {', '.join(known)}, but got {callback.monitor!r}.")


def _may_log(callback: L.Callback) -> bool:
    return isinstance(callback, LambdaCallback) or not type(callback).__module__.startswith("lightning.")
