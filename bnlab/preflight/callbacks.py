"""Refuses the Lightning callbacks that do not work in a run, by name."""

from collections.abc import Mapping, Sequence
from typing import Any

from bnlab.errors import UserError
from bnlab.metrics import columns_of

__all__ = ["FOR_A_LOGGER", "REFUSED", "check_callbacks", "check_monitor", "needs_a_logger", "refused"]

REFUSED = {
    "BatchSizeFinder": ("no config would contain what it finds: compare sizes with -m data.batch_size=64,256,full"),
    "LearningRateFinder": (
        "no config would contain what it finds: search with -m search=random search/space=learning_rate"
    ),
    "ModelPruning": "it prunes what was validated before best.ckpt is saved, which would hold other weights",
    "StochasticWeightAveraging": (
        "its averages are neither validated nor in best.ckpt: use lightning.pytorch.callbacks.WeightAveraging"
    ),
}
FOR_A_LOGGER = {
    "LearningRateMonitor": "the rate of each epoch is in metrics.csv",
    "DeviceStatsMonitor": "there is nothing else that it writes to",
}
_LIGHTNINGS = "lightning.pytorch.callbacks."


def check_callbacks(settings: Mapping[str, Any]) -> None:
    """Check the callbacks.

    Raises:
        UserError: one of Lightning's callbacks cannot work in a run with these settings.
    """
    callbacks = {str(name): node for name, node in (settings.get("callbacks") or {}).items()}
    metrics = columns_of(settings)
    kinds = {name: _kind(node) for name, node in callbacks.items()}
    for name, kind in kinds.items():
        if kind in REFUSED:
            raise refused(name, kind, kind)
        if kind in FOR_A_LOGGER and settings["logger"].get("_target_") is None:
            raise needs_a_logger(name, kind, kind)
        if (
            kind in ("EarlyStopping", "ModelCheckpoint")
            and None not in kinds.values()
            and "LambdaCallback" not in kinds
        ):
            check_monitor(name, callbacks[name].get("monitor"), metrics, logs_steps=kind == "ModelCheckpoint")


def _kind(node: Mapping[str, Any]) -> str | None:
    """Return the name of a Lightning class; None for any other, which may log any metric."""
    target = str(node.get("_target_"))
    return target.rpartition(".")[2] if target.startswith(_LIGHTNINGS) else None


def refused(name: str, kind: str, which: str) -> UserError:
    """Return the error for the callback `name` of class `kind`, which is refused as Lightning's class `which`."""
    return UserError(f"`callbacks.{name}` must not be a {kind}; {REFUSED[which]}.")


def needs_a_logger(name: str, kind: str, which: str) -> UserError:
    return UserError(
        f"`callbacks.{name}`, a {kind}, must have a logger to write to, but got logger=csv ({FOR_A_LOGGER[which]}): "
        "choose logger=tensorboard or another."
    )


def check_monitor(name: str, monitor: Any, metrics: Sequence[str], *, logs_steps: bool) -> None:
    """Check that `monitor` is logged, because a missing metric would be noticed only after an epoch.

    Raises:
        UserError: it is not logged.
    """
    known = [*metrics, *(["epoch", "step"] if logs_steps else [])]
    if monitor is not None and monitor not in known:
        raise UserError(f"`callbacks.{name}.monitor` must be one of {', '.join(known)}, but got {monitor!r}.")
