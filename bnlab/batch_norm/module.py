"""`BatchNorm1d`: a drop-in for torch.nn.BatchNorm1d on the hand-written formulas."""

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from bnlab.batch_norm.functional import batch_norm

__all__ = ["BatchNorm1d"]


class BatchNorm1d(_BatchNorm):
    r"""Batch norm over (N, C) or (N, C, L), a drop-in for `torch.nn.BatchNorm1d`; see `batch_norm` for the formulas.

    Args:
        num_features: C.
        eps: added to the variance, in units of the input squared.
        momentum: the weight of the new statistic in the running ones; None averages all batches alike.
        affine: learn a weight and a bias a channel.
        track_running_stats: keep running statistics, and evaluate with them.
        device, dtype: of parameters and buffers.
        bias: with `affine`, learn the bias too.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() != 2 and input.dim() != 3:
            raise ValueError(f"expected 2D or 3D input (got {input.dim()}D input)")

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalize `input`; samples where `mask`, (N,) or (N, L), is false give 0 and count in no statistic."""
        self._check_input_dim(input)
        momentum: Tensor | float = 0.0 if self.momentum is None else self.momentum
        tracking = self.track_running_stats or not self.training
        # A forward inside a backward is activation checkpointing running it again: this batch has been counted.
        recomputing = not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
        if self.training and recomputing:
            tracking = False
        if self.training and tracking and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / self.num_batches_tracked
        return batch_norm(
            input,
            self.running_mean if tracking else None,
            self.running_var if tracking else None,
            self.weight,
            self.bias,
            self.training or (self.running_mean is None and self.running_var is None),
            momentum,
            self.eps,
            mask=mask,
        )
