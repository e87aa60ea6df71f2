"""Which tensors are the numbers in their memory: the one gate before a pointer is taken, and a way through it.

A zero tensor (torch makes them where a gradient is known to be 0) has no memory, a negated view the opposite numbers, a
subclass or a wrapper whatever it likes. Operations of torch know; C does not.
"""

from collections.abc import Iterable
from typing import overload

import torch
from torch import Tensor
from torch.nn.parameter import Buffer, Parameter

from bnlab.internals.torch_internals import has_storage, is_zero_tensor

__all__ = ["are_in_memory", "check_memory", "in_memory"]

PLAIN = {Tensor, Parameter, Buffer}

is_compiling = torch.compiler.is_compiling


def are_in_memory(tensors: Iterable[Tensor | None], dtype: torch.dtype) -> bool:
    """Whether each of these that is given has its numbers, of this dtype, in this process's memory as its strides say.

    `tensors.c` asks the same, but for the type, which only Python knows.
    """
    for tensor in tensors:
        if tensor is not None and not (
            tensor.dtype is dtype
            and type(tensor) in PLAIN
            and tensor.is_cpu
            and not is_zero_tensor(tensor)
            and not tensor.is_neg()
        ):
            return False
    return True


def check_memory(*tensors: Tensor | None) -> None:
    """Raise RuntimeError, as torch's own layer does, for a tensor whose memory has been freed under it.

    Many operations of torch's read it all the same, from address 0, and the process ends by SIGSEGV.
    """
    for tensor in tensors:
        if (
            tensor is not None
            and type(tensor) in PLAIN
            and has_storage(tensor)
            and not tensor.untyped_storage().nbytes()
            and tensor.numel()
        ):
            raise RuntimeError(
                f"Batch norm must read its tensors, but the memory of one, of shape {tuple(tensor.shape)}, has been "
                "freed: its storage has been resized to 0. Resize it back and fill it first."
            )


@overload
def in_memory(tensor: Tensor) -> Tensor: ...
@overload
def in_memory(tensor: None) -> None: ...
def in_memory(tensor: Tensor | None) -> Tensor | None:
    """The tensor, or if it is a zero tensor the same zeros in memory.

    A product with a zero tensor is a zero tensor again, which cannot be written to, nor its numbers be listed: none may
    get into what is returned.
    """
    if tensor is None or is_compiling() or not is_zero_tensor(tensor):
        return tensor
    return tensor.clone()
