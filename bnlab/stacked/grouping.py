"""Which trainings can be one stack: those whose configs differ only in numbers that each network can have alone."""

import json
from collections.abc import Mapping
from typing import Any

from bnlab.stacked.early_stopping import is_early_stopping

__all__ = ["group_key", "why_alone"]

# Numbers that shape no tensor; whether they are null or 0 decides which tensors there are.
_OF_EACH = {
    "optimizer": ("lr", "momentum", "beta1", "beta2", "alpha", "eps", "weight_decay", "dampening"),
    "norm": ("eps", "momentum"),
    "trainer": ("gradient_clip_val",),
}
_TRAINER = {
    "_target_",
    "accelerator",
    "devices",
    "precision",
    "max_epochs",
    "max_steps",
    "gradient_clip_val",
    "gradient_clip_algorithm",
}
_PRECISIONS = ("32-true", "64-true")


def why_alone(config: Mapping[str, Any]) -> str | None:
    """Why a training must be done by Lightning, from its config as a plain dict; None if a stack can do it."""
    trainer = config.get("trainer") or {}
    unknown = sorted(set(trainer) - _TRAINER)
    if trainer.get("_target_") != "lightning.pytorch.Trainer":
        return f"trainer._target_={trainer.get('_target_')} is not Lightning's Trainer"
    if unknown:
        return f"trainer.{unknown[0]}={trainer[unknown[0]]} is for Lightning's Trainer"
    if trainer.get("precision") not in _PRECISIONS:
        return f"trainer.precision={trainer.get('precision')} is not one of {', '.join(_PRECISIONS)}"
    if trainer.get("accelerator") not in ("auto", "cpu"):
        return f"trainer.accelerator={trainer.get('accelerator')} is not auto or cpu"
    if (config.get("logger") or {}).get("_target_") is not None:
        return f"logger {config['logger']['_target_']} is Lightning's"
    for name, callback in (config.get("callbacks") or {}).items():
        if not is_early_stopping(callback):
            return f"the callback {name} ({callback.get('_target_')}) is for Lightning's Trainer"
    return None


def group_key(config: Mapping[str, Any]) -> str:
    """Equal for the configs of networks that can be one stack: same data, shapes, rules and length of training."""
    shape: dict[str, Any] = {
        key: config[key] for key in config if key not in ("seed", "scheduler", "callbacks", "objective", "search")
    }
    for group, names in _OF_EACH.items():
        values = dict(shape.get(group) or {})
        for name in names:
            if name in values:
                values[name] = None if values[name] is None else "a number"
        shape[group] = values
    return json.dumps(shape, sort_keys=True, default=str)
