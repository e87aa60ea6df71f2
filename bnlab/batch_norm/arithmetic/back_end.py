"""The interface between a back end of batch norm in eager mode, the autograd Function and autograd."""

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from torch import Tensor

from bnlab.batch_norm.arithmetic.arguments import Settings

__all__ = ["BackEnd", "Found", "Gradients", "Needs", "Saved", "needed"]

Saved: TypeAlias = tuple[Tensor | None, ...]  # the tensors that autograd saves for backward: x, weight and others
Found: TypeAlias = tuple[Tensor, Tensor]  # the mean and the unbiased variance of the batch, (*stack, C)
Needs: TypeAlias = Sequence[bool]  # whether dL/dx, dL/dweight and dL/dbias are needed
Gradients: TypeAlias = tuple[Tensor | None, Tensor | None, Tensor | None]  # dL/dx, dL/dweight and dL/dbias


class BackEnd(Protocol):
    """The two functions that a module must have to serve as a back end."""

    def forward(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, settings: Settings
    ) -> tuple[Tensor, Saved, Found | None]:
        """Return y, the tensors to save, and the statistics, or None if it updated the running statistics itself."""

    def backward(self, saved: Saved, grad_y: Tensor, stack_dims: int, needs: Needs) -> Gradients | None:
        """Return the gradients that are needed; None if the back end cannot read these tensors."""


def needed(gradients: tuple[Tensor, Tensor, Tensor], needs: Needs) -> Gradients:
    grad_x, grad_weight, grad_bias = (
        each if is_needed else None for each, is_needed in zip(gradients, needs, strict=True)
    )
    return grad_x, grad_weight, grad_bias
