"""Sums of products over a batch on the CPU, for one network: torch's gradients of batch norm's weight and bias.

They come in one pass, and no products are held. torch adds up the rows of a thread one after the other in fp32, so only
few at a time; with a length it adds up in double.
"""

import torch
from torch import Tensor

from bnlab.batch_norm.formulas import total

__all__ = ["SMALL", "is_exact", "sums"]

# Rows that one thread may add up in fp32: with 64 errors stay below 8e-7 (25 seeds, means up to 1e6), with 128 they
# reach 1.2e-6.
FEW_ROWS = 64
# Up to so many numbers, products in memory of their own are added up faster: 13 us instead of 46 at 256 x 128.
SMALL = 65536

native_backward = torch.ops.aten.native_batch_norm_backward.default


def is_exact(c: Tensor) -> bool:
    """Whether torch adds up few rows a thread, or in double."""
    shape = c.shape
    return shape[0] <= FEW_ROWS * torch.get_num_threads() or (len(shape) > 2 and shape[2:].numel() > 1)


def sums(g: Tensor, c: Tensor, mean: Tensor, inv_std: Tensor) -> tuple[Tensor, Tensor]:
    """sum(g (c - mean)) inv_std and sum(g) over the batch, (C,), of contiguous g and c: (N, C) or (N, C, L)."""
    if is_exact(c):
        return native_sums(g, c, mean, inv_std)
    if c.numel() <= SMALL:
        sum_g = total(g, 0)
        return total(g * c, 0).addcmul_(mean, sum_g, value=-1).mul_(inv_std), sum_g
    num_rows, num_features = c.shape[:2]
    few = FEW_ROWS * torch.get_num_threads()
    rows = num_rows // few * few
    # Row n of the first rows / few becomes further channels of row 0, and so on.
    times = rows // few
    wide = native_sums(g[:rows].view(few, -1), c[:rows].view(few, -1), mean.repeat(times), inv_std.repeat(times))
    products, sum_g = (values.view(times, num_features).sum(0) for values in wide)
    if rows < num_rows:
        rest_of_products, rest_of_g = native_sums(g[rows:], c[rows:], mean, inv_std)
        products += rest_of_products
        sum_g += rest_of_g
    return products, sum_g


def native_sums(g: Tensor, c: Tensor, mean: Tensor, inv_std: Tensor) -> tuple[Tensor, Tensor]:
    _, products, sum_g = native_backward(g, c, None, None, None, mean, inv_std, True, 0.0, [False, True, True])
    return products, sum_g
