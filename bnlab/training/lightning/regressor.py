"""The LightningModule that learns real numbers."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from bnlab.data.target_scale import AS_THEY_ARE, TargetScale
from bnlab.training.lightning.learner import Learner
from bnlab.training.metrics import RegressionMetrics
from bnlab.training.network_outputs import check_outputs

__all__ = ["Regressor"]


class Regressor(Learner):
    """Minimize the mean squared error of the outputs (N, 1); the score is R^2.

    Args:
        scale: the scale of the targets; metrics are in the original unit.
        network, arguments, named: as in `Learner`.
    """

    def __init__(self, network: nn.Module, *arguments: Any, scale: TargetScale = AS_THEY_ARE, **named: Any) -> None:
        self._scale = scale
        super().__init__(network, *arguments, **named)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        check_outputs(outputs, len(y), 1)
        return F.mse_loss(outputs.squeeze(1), y)

    def make_metrics(self) -> RegressionMetrics:
        return RegressionMetrics(self._scale)
