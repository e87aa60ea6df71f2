"""Check that the memory of a tensor holds its values, before C code takes a pointer to it.

A zero tensor (torch makes them where a gradient is known to be 0) has no memory, that of a negated view holds values of
the opposite sign, and that of a subclass or a wrapper may hold anything. Torch's operations handle these; C does not.
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
    """Whether the memory of this process holds the values of all these tensors, in this dtype; None is ignored.

    `tensors.c` checks the same except the Python type.
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
    """Raise RuntimeError, as torch's own layer does, if the memory of a tensor has been freed.

    Many torch operations would read it nevertheless, from address 0, and the process would end by SIGSEGV.
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
    """Return the tensor or, if it is a zero tensor, a copy of it in memory.

    A product with a zero tensor is a zero tensor, too, which can neither be written to nor converted to a list, so none
    may reach a result.
    """
    if tensor is None or is_compiling() or not is_zero_tensor(tensor):
        return tensor
    return tensor.clone()
