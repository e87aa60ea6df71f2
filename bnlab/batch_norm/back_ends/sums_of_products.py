"""sum(a b) and sum(a) over a batch, which batch norm takes twice: of c and c in forward, of dL/dy and c in backward.

Products in memory of their own cost a pass to write and one to read. torch's gradients of batch norm's weight and bias
are the same two sums in one pass, but it sums the rows of a thread one after the other in fp32, so it is given few at a
time. With a length, it sums in double.
"""

import torch
from torch import Tensor

from bnlab.batch_norm.arithmetic.formulas import batch_dims
from bnlab.batch_norm.arithmetic.plain import are_in_memory
from bnlab.batch_norm.back_ends.map_networks import map_networks

__all__ = ["sums_of_products"]

# Up to so many numbers of a network, products are held at once: a call of the other function takes longer.
SMALL = 65536
# Rows per thread: with 128, errors exceed 1e-6.
FEW_ROWS = 64
# Where torch's function is not used, of many numbers a quarter of the products is held.
PARTS = 4

native_backward = torch.ops.aten.native_batch_norm_backward.default


def sums_of_products(a: Tensor, b: Tensor, stack_dims: int) -> tuple[Tensor, Tensor]:
    """sum(a b) and sum(a) over the batch, (*stack, C)."""
    if a.shape[stack_dims:].numel() <= SMALL:
        dims = batch_dims(a, stack_dims)
        return (a * b).sum(dims), a.sum(dims)
    if are_in_memory((a, b), a.dtype):
        products, sums = map_networks(sum_one, a.shape[:stack_dims], a.contiguous(), b.contiguous())
        return products, sums
    return sum_in_parts(a, b, stack_dims)


def sum_one(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.dim() > 2 and a.shape[2] > 1:
        return native_sums(a, b)
    num_rows, num_features = a.shape[:2]
    few = FEW_ROWS * torch.get_num_threads()
    times, rest = divmod(num_rows, few)
    if not times:
        return native_sums(a, b)
    # The rows from `few` on become further channels of the first ones.
    rows = num_rows - rest
    found = native_sums(*(each[:rows].reshape(few, times * num_features) for each in (a, b)))
    products, sums = (each.view(times, num_features).sum(0) for each in found)
    if rest:
        products_of_rest, sums_of_rest = native_sums(a[rows:], b[rows:])
        products, sums = products.add_(products_of_rest), sums.add_(sums_of_rest)
    return products, sums


def native_sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    zero, one = (torch.full(a.shape[1:2], number, dtype=a.dtype) for number in (0.0, 1.0))
    _, products, sums = native_backward(a, b, None, None, None, zero, one, True, 0.0, [False, True, True])
    return products, sums


def sum_in_parts(a: Tensor, b: Tensor, stack_dims: int) -> tuple[Tensor, Tensor]:
    dims = batch_dims(a, stack_dims)
    num_rows = a.shape[stack_dims]
    if num_rows < PARTS:
        return (a * b).sum(dims), a.sum(dims)
    step = -(-num_rows // PARTS)
    result = a.new_zeros(a.shape[:stack_dims] + a.shape[stack_dims + 1 : stack_dims + 2])
    product = torch.empty_like(a.narrow(stack_dims, 0, step))
    for start in range(0, num_rows, step):
        rows = min(step, num_rows - start)
        block = product if rows == step else product.narrow(stack_dims, 0, rows)
        torch.mul(a.narrow(stack_dims, start, rows), b.narrow(stack_dims, start, rows), out=block)
        result += block.sum(dims)
    return result, a.sum(dims)
