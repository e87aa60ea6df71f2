"""Layers of stacked networks that treat every number alike."""

from collections.abc import Callable, Sequence
from typing import Any, Self

from torch import Tensor, nn

from bnlab.stacked.compiled.c_functions import Kind
from bnlab.stacked.formulas.layers import Layer
from bnlab.stacked.formulas.stack import Part

__all__ = ["elementwise"]


def elementwise(
    function: Callable[[Tensor], Tensor],
    derivative: Callable[[Tensor, Tensor], Any],
    *,
    from_y: bool = False,
    in_c: Kind | None = None,
) -> type[Layer]:
    """The layer y = f(x), dL/dx = f'(x) g, without numbers of its own.

    Args:
        function: f; it may overwrite x where the derivative is taken from y.
        derivative: f'(x) g, from g and x, or from g and y.
        from_y: whether from y.
        in_c: which layer of step.c does the same; None for none.
    """

    class Elementwise(Layer):
        @classmethod
        def of(cls, modules: Sequence[nn.Module], part: Part) -> Self:
            return cls()

        def kind_in_c(self) -> Kind | None:
            return in_c

        def forward(self, x: Tensor) -> Tensor:
            y = function(x)
            self._kept = y if from_y else x
            return y

        def evaluate(self, x: Tensor) -> Tensor:
            return function(x)

        def backward(self, grad_y: Tensor, needs_x: bool) -> Tensor | None:
            return derivative(grad_y, self._kept) if needs_x else None

    return Elementwise
