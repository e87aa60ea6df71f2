"""Compute the user's own metrics (`metrics` in the config) for one network and one split."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from bnlab.config.build import build_metric
from bnlab.data.target_scale import TargetScale
from bnlab.errors import UserError, error_text

__all__ = ["OwnMetrics"]

_Function = Callable[[Tensor, Tensor], Any]


class OwnMetrics:
    """Collect the outputs and labels of an epoch, then pass all of them at once to each metric.

    A metric takes the logits (N, classes) and the classes (N,) or, in a regression, predictions and targets (N,) in the
    unit of y, on the CPU. If an output is not finite, the metric is not called, and its value is NaN.

    Args:
        config: the config of the run.
        scale: the scale of the targets of a regression; None for classes.
    Raises:
        UserError: a metric cannot be built.
    """

    def __init__(self, config: DictConfig, scale: TargetScale | None) -> None:
        metrics: Mapping[str, DictConfig] = config.get("metrics") or {}
        self._functions = {name: _as_function(build_metric(name, node)) for name, node in metrics.items()}
        self._scale = scale
        self._reset()

    def __bool__(self) -> bool:
        """Whether there are any metrics."""
        return bool(self._functions)

    def _reset(self) -> None:
        self._outputs: list[Tensor] = []
        self._labels: list[Tensor] = []

    def update(self, outputs: Tensor, y: Tensor) -> None:
        """Add a batch: outputs (N, outputs) and labels (N,), which the caller may overwrite afterwards."""
        if self._functions:
            self._outputs.append(outputs.detach().clone())
            self._labels.append(y.clone())

    @torch.no_grad()
    def compute(self) -> dict[str, float]:
        """Return the metrics of the samples seen since the last call.

        Raises:
            UserError: a metric raises, or returns something other than a number.
        """
        if not self._functions:
            return {}
        outputs, y = torch.cat(self._outputs).cpu(), torch.cat(self._labels).cpu()
        self._reset()
        if not outputs.isfinite().all():
            return dict.fromkeys(self._functions, float("nan"))
        if self._scale is not None:
            outputs, y = self._scale.invert(outputs.squeeze(1)), self._scale.invert(y)
        return {name: _value(name, function, outputs, y) for name, function in self._functions.items()}


def _as_function(metric: Any) -> _Function:
    """Return `metric` as a function of outputs and labels, even if it is one of torchmetrics."""
    if not hasattr(metric, "update"):
        function: _Function = metric
        return function

    def measure(outputs: Tensor, y: Tensor) -> Any:
        metric.reset()
        metric.update(outputs, y)
        return metric.compute()

    return measure


def _value(name: str, function: _Function, outputs: Tensor, y: Tensor) -> float:
    try:
        value = function(outputs, y)
    except Exception as error:
        raise UserError(f"`metrics.{name}` cannot be computed: {error_text(error)}") from error
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        shown = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise UserError(f"`metrics.{name}` must return one number, but returned {shown}.") from None
