"""Ghost batch norm: normalize by the statistics of virtual batches, which are parts of the training batch."""

import torch
from torch import Tensor

from bnlab.batch_norm.arithmetic import formulas
from bnlab.batch_norm.functional import normalize_batch
from bnlab.batch_norm.module import BatchNorm1d

__all__ = ["GhostBatchNorm1d"]


class GhostBatchNorm1d(BatchNorm1d):
    r"""Batch norm that in training normalizes each virtual batch by its own statistics (Hoffer et al. 2017,
    arXiv:1705.08741, Algorithm 1); in evaluation it equals `BatchNorm1d`.

    A batch of N samples is split into N // virtual_batch_size virtual batches, at least one, whose sizes differ by at
    most one; each is normalized as if it were a batch. The running statistics are updated with the virtual batches'
    average (the paper weights later ones more): means over those with a valid sample, variances over those with two.

    Args:
        virtual_batch_size: samples per virtual batch, at least 2. With that of the batch this is `BatchNorm1d`.
        others: as in `BatchNorm1d`.
    Raises:
        ValueError: if `virtual_batch_size` is less than 2.
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
        virtual_batch_size: int = 32,
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
        if virtual_batch_size < 2:
            raise ValueError(
                f"`virtual_batch_size` must be at least 2, for a variance to exist, but got {virtual_batch_size}."
            )
        self.virtual_batch_size = virtual_batch_size

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, virtual_batch_size={self.virtual_batch_size}"

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        if not self.training:
            return super().forward(input, mask)
        num_samples = input.shape[0]
        num_ghosts = num_samples // self.virtual_batch_size
        if num_ghosts < 2 or not input.numel():
            return super().forward(input, mask)
        self.check(input, mask)
        larger = num_samples % num_ghosts
        size = num_samples // num_ghosts
        cut = larger * (size + 1)
        results, means, variances, valid = [], [], [], []
        for first, last, ghosts in ((0, cut, larger), (cut, num_samples, num_ghosts - larger)):
            if not ghosts:
                continue
            part_of_mask = None if mask is None else mask[first:last].unflatten(0, (ghosts, -1))
            y, mean, var = normalize_batch(
                input[first:last].unflatten(0, (ghosts, -1)),
                None if self.weight is None else self.weight.expand(ghosts, -1),
                None if self.bias is None else self.bias.expand(ghosts, -1),
                self.eps,
                part_of_mask,
                1,
            )
            results.append(y.flatten(0, 1))
            means.append(mean)
            variances.append(var)
            if part_of_mask is not None:
                valid.append(formulas.num_valid(part_of_mask, 1))
        self.track_average(torch.cat(means), torch.cat(variances), torch.cat(valid) if valid else None)
        return torch.cat(results) if len(results) > 1 else results[0]

    @torch.no_grad()
    def track_average(self, means: Tensor, variances: Tensor, valid: Tensor | None) -> None:
        """Track the average over the virtual batches, (ghosts, C), that have a mean or a variance."""
        if valid is None:
            self.track(means.mean(0), variances.mean(0))
        elif self.running_mean is not None and self.running_var is not None:
            num_means, num_variances = ((valid > least).sum() for least in (0, 1))
            mean = means.sum(0) / num_means.clamp(min=1).to(means.dtype)
            var = variances.sum(0) / num_variances.clamp(min=1).to(variances.dtype)
            self.track(
                torch.where(num_means > 0, mean, self.running_mean),
                torch.where(num_variances > 0, var, self.running_var),
            )
