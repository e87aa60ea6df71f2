"""Group trainings into stacks: their configs may differ only in numbers, of which each network has its own."""

import json
from collections.abc import Mapping
from typing import Any

from bnlab.config.trainer import LIGHTNINGS_TRAINER, QUICK_TRAINER, is_quick
from bnlab.metrics import columns_of
from bnlab.stacked.early_stopping import early_stopping_lacks

__all__ = ["data_key", "group_key", "why_alone"]

_WITHOUT_SHAPE = ("seed", "scheduler", "callbacks", "objective", "figures", "search")  # settings
# Numbers that do not affect shapes, although a null decides which tensors exist; so do all numbers of an optimizer.
_PER_NETWORK = {
    "norm": ("eps", "momentum"),
    "trainer": ("gradient_clip_val",),
}
# The batch norms of the layer table, and the network around them; other classes may use their numbers in any way. These
# are names, because jobs are grouped without importing torch.
_NORMS = ("bnlab.batch_norm.BatchNorm1d", "bnlab.BatchNorm1d", "torch.nn.BatchNorm1d")
_NETWORKS = ("bnlab.network.MLP", "bnlab.MLP")
# Arguments of Lightning's Trainer that a stack has, too, with values checked by `bnlab.rules`.
_SERVED = {"_target_", "max_epochs", "max_steps", "gradient_clip_val", "gradient_clip_algorithm"}
# The other arguments, with the values for which Lightning behaves like a stack.
_STACK_COMPATIBLE: dict[str, tuple[Any, ...]] = {
    "accelerator": ("auto", "cpu"),
    "devices": (1,),
    "precision": ("32-true", "64-true"),
    "strategy": ("auto",),
    "num_nodes": (1,),
    "fast_dev_run": (False, 0),
    "min_epochs": (None, 0),
    "min_steps": (None, 0),
    "max_time": (None,),
    "limit_train_batches": (None, 1.0),
    "limit_val_batches": (None, 1.0),
    "limit_test_batches": (None, 1.0),
    "overfit_batches": (0, 0.0),
    "val_check_interval": (None, 1.0),
    "check_val_every_n_epoch": (1,),
    "num_sanity_val_steps": (0,),
    "enable_checkpointing": (None, True),
    "enable_progress_bar": (None, True, False),  # a sweep has its own
    "enable_model_summary": (False,),
    "accumulate_grad_batches": (1,),
    "deterministic": (None, False),
    "benchmark": (None, False),
    "inference_mode": (True,),
    "profiler": (None,),
    "detect_anomaly": (False,),
    "barebones": (False,),
    "sync_batchnorm": (False,),
    "reload_dataloaders_every_n_epochs": (0,),
}


def why_alone(config: Mapping[str, Any]) -> str | None:
    """Say why Lightning must do a training, given its config as a plain dict; None if a stack can do it."""
    trainer = config.get("trainer") or {}
    if trainer.get("_target_") not in (LIGHTNINGS_TRAINER, QUICK_TRAINER):
        return f"trainer._target_={trainer.get('_target_')} is not Lightning's Trainer"
    for name, value in trainer.items():
        if name not in _SERVED and not _is_one_of(value, _STACK_COMPATIBLE.get(name, ())):
            return f"trainer.{name}={value} is for Lightning's Trainer"
    if "precision" not in trainer or "accelerator" not in trainer:
        return "trainer.precision and trainer.accelerator are for Lightning's Trainer to choose"
    if (config.get("logger") or {}).get("_target_") is not None:
        return f"logger {config['logger']['_target_']} is Lightning's"
    for name, callback in (config.get("callbacks") or {}).items():
        if not isinstance(callback, Mapping):
            return f"callbacks.{name}={callback} is not a callback"
        if (setting := early_stopping_lacks(callback, columns_of(config))) is not None:
            return f"callbacks.{name}.{setting}={callback.get(setting)} is for Lightning's Trainer"
    return None


def _is_one_of(value: Any, values: tuple[Any, ...]) -> bool:
    return any(value == own and type(value) is type(own) for own in values)


def group_key(config: Mapping[str, Any]) -> str:
    """Return a key that is equal for networks that can be one stack: same data, shapes, rules and length."""
    shape: dict[str, Any] = {key: config[key] for key in config if key not in _WITHOUT_SHAPE}
    knows_norm = _target(config, "norm") in _NORMS and _target(config, "model") in _NETWORKS
    if is_quick(config):  # the quick trainer trains as a stack does
        shape["trainer"] = {**config["trainer"], "_target_": LIGHTNINGS_TRAINER}
    settings = config.get("optimizer") or {}
    shape["optimizer"] = {name: "a number" if _is_number(value) else value for name, value in settings.items()}
    for group, names in _PER_NETWORK.items():
        if group == "norm" and not knows_norm:
            continue
        values = dict(shape.get(group) or {})
        for name in names:
            if name in values:
                values[name] = None if values[name] is None else "a number"
        shape[group] = values
    return json.dumps(shape, sort_keys=True, default=str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _target(config: Mapping[str, Any], group: str) -> Any:
    return (config.get(group) or {}).get("_target_")


def data_key(config: Mapping[str, Any]) -> str:
    """Return a key that is equal for configs with the same data."""
    return json.dumps({key: value for key, value in config["data"].items() if key != "batch_size"}, sort_keys=True)
