"""Batch renormalization: batch norm in training that differs little from the same layer in evaluation."""

import torch
from torch import Tensor

from bnlab.batch_norm.arithmetic import formulas
from bnlab.batch_norm.checkpointing.recomputation import as_at_first
from bnlab.batch_norm.functional import normalize_batch
from bnlab.batch_norm.module import BatchNorm1d

__all__ = ["BatchRenorm1d"]


class BatchRenorm1d(BatchNorm1d):
    r"""Batch renormalization (Ioffe 2017, arXiv:1702.03275, Algorithm 1); in evaluation it equals `BatchNorm1d`.

    In training, with the running mean and sigma = sqrt(running_var + eps) before this batch, and the batch's sigma_B:
        r = clip(sigma_B / sigma, 1 / r_max, r_max),   d = clip((mean_B - mean) / sigma, -d_max, d_max)
        y = weight * (x_hat * r + d) + bias,   x_hat as in batch norm
    r and d are constants for the gradient; a forward that activation checkpointing recomputes uses those of the first.
    If a mask leaves one value, sigma_B = sqrt(eps); if it leaves none, y is 0 for any r and d.
    With r_max 1 and d_max 0 this is batch norm. The bounds keep these values for `ramp_start` batches and then grow
    linearly to `r_max` and `d_max` at `ramp_end`; if the two are equal, they jump there at that batch.

    Args:
        r_max: at least 1; the paper's value is 3.
        d_max: at least 0; the paper's value is 5.
        ramp_start, ramp_end: in batches; the paper's values are 5000, and 40000 for r_max and 25000 for d_max.
        others: as in `BatchNorm1d`. Without running statistics the layer is plain batch norm.
    Raises:
        ValueError: if the bounds or the ramp are invalid.
    """

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
        r_max: float = 3.0,
        d_max: float = 5.0,
        ramp_start: int = 5000,
        ramp_end: int = 25000,
    ) -> None:
        super().__init__(
            num_features,
            eps,
            momentum,
            affine,
            track_running_stats,
            device,
            dtype,
            bias=bias,
            fp32_buffers=fp32_buffers,
        )
        if not r_max >= 1:
            raise ValueError(f"`r_max` must be at least 1, which is batch norm, but got {r_max}.")
        if not d_max >= 0:
            raise ValueError(f"`d_max` must be at least 0, which is batch norm, but got {d_max}.")
        if not 0 <= ramp_start <= ramp_end:
            raise ValueError(f"The ramp must have 0 <= ramp_start <= ramp_end, but got {ramp_start} and {ramp_end}.")
        self.r_max, self.d_max, self.ramp_start, self.ramp_end = r_max, d_max, ramp_start, ramp_end

    def extra_repr(self) -> str:
        ramp = f"ramp_start={self.ramp_start}, ramp_end={self.ramp_end}"
        return f"{super().extra_repr()}, r_max={self.r_max}, d_max={self.d_max}, {ramp}"

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        running_mean, running_var = self.running_mean, self.running_var
        if not self.training or running_mean is None or running_var is None or not self.track_running_stats:
            return super().forward(input, mask)
        self.check(input, mask)
        if not input.numel():
            return super().forward(input, mask)
        x_hat, mean, var = normalize_batch(input, None, None, self.eps, mask, 0)
        with torch.no_grad():
            r, d = as_at_first(self, (mean, var), lambda: self.correction(mean, var, formulas.count(input, mask, 0)))
            self.track(mean, var, mask)
        scale, shift = (r, d) if self.weight is None else (r * self.weight, d * self.weight)
        shift = shift if self.bias is None else shift + self.bias
        return formulas.affine(x_hat.to(scale.dtype), None, scale, shift, mask, 0).to(input.dtype)

    def correction(self, mean: Tensor, var: Tensor, number: Tensor | int) -> tuple[Tensor, Tensor]:
        """Return r and d for a batch with this mean and unbiased variance."""
        assert self.running_mean is not None
        assert self.running_var is not None
        r_max, d_max = self.bounds(mean.dtype)
        sigma = torch.sqrt(self.running_var.to(var.dtype) + self.eps)
        r = torch.sqrt(var * ((number - 1) / number) + self.eps) / sigma
        r = torch.minimum(torch.maximum(r, 1 / r_max), r_max)
        return r, torch.minimum(torch.maximum((mean - self.running_mean) / sigma, -d_max), d_max)

    def bounds(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return r_max and d_max at this batch."""
        assert self.num_batches_tracked is not None
        past_start, length = self.num_batches_tracked.to(dtype) - self.ramp_start, self.ramp_end - self.ramp_start
        done = (past_start / length if length else past_start + 1).clamp(0, 1)
        return 1 + (self.r_max - 1) * done, self.d_max * done
