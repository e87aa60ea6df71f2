"""What is learned: classes or real numbers."""

from collections.abc import Mapping
from typing import Any

__all__ = ["TASKS", "task_of"]

TASKS = ("classification", "regression")


def task_of(config: Mapping[str, Any]) -> str:
    """The task of a config; one without `task` learns classes."""
    return config.get("task") or "classification"
