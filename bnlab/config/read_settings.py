"""Determines which settings of its config a run reads."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from bnlab.config.settings import WIDTHS

__all__ = ["NOTHING_READS_IT", "is_unread", "may_be_unread", "read_settings"]

# The parts of its config that a run reads entirely
_READ = (
    *("data", "model", "norm", "optimizer", "scheduler", "trainer", "logger", "callbacks", "metrics", "figures"),
    *("seed", "task", "objective", "num_threads"),
)


NOTHING_READS_IT = "nothing reads it"


def may_be_unread(key: str) -> bool:
    """Whether some runs read the existing setting `key` and others do not."""
    top, _, name = key.partition(".")
    return (top == "model" and name in WIDTHS) or name == "_target_" or key == "trainer.gradient_clip_algorithm"


def is_unread(job: DictConfig, key: str) -> str | None:
    """Return why a run of `job` does not read the setting `key` itself; None if it does."""
    top, _, name = key.partition(".")
    if top not in _READ:
        return NOTHING_READS_IT
    group = job.get(top)
    if not name or not OmegaConf.is_dict(group):
        return None
    if group.get("_target_", "") is None and name != "_target_":
        return f"{top}._target_ is null"
    if top == "model" and name in WIDTHS and "hidden" in group:
        return "model.hidden does not depend on it"
    if key == "trainer.gradient_clip_algorithm" and group.get("gradient_clip_val") is None:
        return "trainer.gradient_clip_val is null"
    return None


def read_settings(job: DictConfig) -> str:
    """Return all that a run of `job` reads, resolved, as text, in which NaN equals itself."""
    return repr({key: _read_of(job, key) for key in _READ if key in job})


def _read_of(job: DictConfig, top: str) -> Any:
    value = job[top]
    if not OmegaConf.is_dict(value):
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    settings: Any = OmegaConf.to_container(value, resolve=True)
    return {name: item for name, item in settings.items() if is_unread(job, f"{top}.{name}") is None}
