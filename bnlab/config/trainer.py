"""The trainer of a run by `trainer._target_`: Lightning's Trainer or, with trainer=quick, the engine of stacks."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, open_dict

__all__ = ["LIGHTNINGS_TRAINER", "QUICK_TRAINER", "by_lightning", "is_quick"]

LIGHTNINGS_TRAINER = "lightning.pytorch.Trainer"
QUICK_TRAINER = "bnlab.engines.quick.QuickTrainer"


def is_quick(config: Mapping[str, Any]) -> bool:
    """Whether a single run should do without Lightning if possible (`trainer=quick`)."""
    return (config.get("trainer") or {}).get("_target_") == QUICK_TRAINER


def by_lightning(config: DictConfig) -> DictConfig:
    """Return the config with Lightning's Trainer in place of ours; any other trainer is kept."""
    if not is_quick(config):
        return config
    changed = config.copy()
    with open_dict(changed):
        changed.trainer._target_ = LIGHTNINGS_TRAINER
    return changed
