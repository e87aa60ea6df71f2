"""What is learned, classes or real numbers, and by what its results are measured."""

from collections.abc import Mapping
from typing import Any

__all__ = ["SCORES", "TASKS", "TEST_SCORES", "metric_names", "objectives", "score_of", "task_of"]

SCORES = {"classification": "accuracy", "regression": "r2"}
"""Task -> the score beside the loss. Higher is better.

accuracy: the share of samples whose largest output is that of their class.
r2: R^2 = 1 - sum (y - prediction)^2 / sum (y - mean(y))^2, the share of the variance of y that is explained.
"""
TASKS = tuple(SCORES)
TEST_SCORES = tuple(f"test_{score}" for score in SCORES.values())


def task_of(config: Mapping[str, Any]) -> str:
    """The task of a config; those of before there was a choice say none, and learn classes."""
    return config.get("task") or "classification"


def score_of(config: Mapping[str, Any]) -> str:
    return SCORES.get(task_of(config), "accuracy")  # an unknown task is refused elsewhere


def objectives(task: str) -> tuple[str, str]:
    """What can pick the best epoch, and rank runs."""
    return f"val_{SCORES[task]}", "val_loss"


def metric_names(score: str) -> tuple[str, str, str, str]:
    """The metrics of an epoch, as metrics.csv names them."""
    return "train_loss", f"train_{score}", "val_loss", f"val_{score}"
