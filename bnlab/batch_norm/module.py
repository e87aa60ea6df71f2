"""`BatchNorm1d`: a drop-in for torch.nn.BatchNorm1d on the hand-written formulas."""

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from bnlab.batch_norm.functional import batch_norm

__all__ = ["BatchNorm1d"]

is_compiling = torch.compiler.is_compiling
graph_task = torch._C._current_graph_task_id


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
        if input.dim() not in (2, 3):
            raise ValueError(f"expected 2D or 3D input (got {input.dim()}D input)")

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalize `input`; samples where `mask`, (N,) or (N, L), is false give 0 and count in no statistic."""
        self._check_input_dim(input)
        try:  # past nn.Module.__getattr__, which costs more than a small batch norm's arithmetic
            parameters, buffers = self._parameters, self._buffers
            weight, bias = parameters["weight"], parameters["bias"]
            running_mean, running_var = buffers["running_mean"], buffers["running_var"]
            num_batches_tracked = buffers["num_batches_tracked"]
        except KeyError:  # a parametrization put something in their place
            weight, bias, num_batches_tracked = self.weight, self.bias, self.num_batches_tracked
            running_mean, running_var = self.running_mean, self.running_var
        training = self.training
        if not training:
            training, num_batches_tracked = running_mean is None and running_var is None, None
        # A forward inside a backward is activation checkpointing running it again: this batch has been counted.
        elif not self.track_running_stats or (not is_compiling() and graph_task() != -1):
            running_mean = running_var = num_batches_tracked = None
        return batch_norm(
            input,
            running_mean,
            running_var,
            weight,
            bias,
            training,
            self.momentum,
            self.eps,
            num_batches_tracked=num_batches_tracked,
            mask=mask,
        )
