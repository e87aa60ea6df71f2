"""What the torch at hand cannot do yet, so that tests that compare with it skip that, with a reason."""

from inspect import signature

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["curries_checkpoints", "norms_without_bias", "refuses_eps"]


def _refuses(eps: float) -> bool:
    try:
        nn.functional.batch_norm(torch.zeros(2, 1), None, None, training=True, eps=eps)
    except ValueError:
        return True
    return False


norms_without_bias = pytest.mark.skipif(
    "bias" not in signature(nn.BatchNorm1d).parameters, reason="this torch has no batch norm with a weight alone"
)
refuses_eps = pytest.mark.skipif(not _refuses(0.0), reason="this torch takes any eps")
curries_checkpoints = pytest.mark.skipif(
    signature(checkpoint).parameters["function"].default is not None, reason="this torch's checkpoint is no decorator"
)
