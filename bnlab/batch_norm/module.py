"""`BatchNorm1d`: a drop-in for torch.nn.BatchNorm1d on the hand-written formulas."""

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from bnlab.batch_norm import formulas
from bnlab.batch_norm.functional import normalize
from bnlab.batch_norm.recomputation import recomputing

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
        fp32_buffers: keep the running statistics in fp32 when the module is moved to a half type, whose 8 or 11 bits
            are too few to average in.
    """

    # On the class, so that a module pickled or built without them has them too.
    fp32_buffers = False
    frozen = False
    trainable_before: Sequence[str] = ("weight", "bias")  # it was frozen: the names that `unfreeze` lets learn again

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        fp32_buffers: bool = False,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        if fp32_buffers:
            self.fp32_buffers = True
            self.in_fp32(self.running_mean, self.running_var)

    def extra_repr(self) -> str:
        return super().extra_repr() + (", fp32_buffers=True" if self.fp32_buffers else "")

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self.frozen)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = self.running_mean, self.running_var
        super()._apply(fn, recurse)
        if self.fp32_buffers:
            self.in_fp32(*before)
        return self

    def in_fp32(self, running_mean: Tensor | None, running_var: Tensor | None) -> None:
        """Where a buffer has become a half type, put its value before that back, on the device it is on now."""
        for name, before in (("running_mean", running_mean), ("running_var", running_var)):
            now = getattr(self, name)
            if now is not None and before is not None and now.dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, before.to(now.device, torch.float32))

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
        elif not self.track_running_stats:
            running_mean = running_var = num_batches_tracked = None
        return normalize(
            input,
            running_mean,
            running_var,
            weight,
            bias,
            training,
            self.momentum,
            self.eps,
            num_batches_tracked,
            mask,
            0,
            training and recomputing(),
        )

    @torch.no_grad()
    def track(self, mean: Tensor, var: Tensor) -> None:
        """Take a batch's mean and unbiased variance, (C,), into the running statistics, unless it was counted."""
        if not self.track_running_stats:
            return
        formulas.move(
            mean,
            var,
            self.running_mean,
            self.running_var,
            self.num_batches_tracked,
            self.momentum,
            recomputed=recomputing(),
        )
