"""The two tasks: classification and regression."""

from collections.abc import Mapping
from typing import Any

__all__ = ["TASKS", "task_of"]

TASKS = ("classification", "regression")


def task_of(config: Mapping[str, Any]) -> str:
    """Return the task of a config; the default is classification."""
    return config.get("task") or "classification"
