"""Elementwise layers of stacked networks."""

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
    """Make the layer y = f(x), dL/dx = f'(x) g, which has no parameters.

    Args:
        function: f; with `from_y` it may overwrite x.
        derivative: f'(x) g as a function of g and x, or of g and y.
        from_y: whether the derivative is computed from y.
        in_c: the layer of step.c that does the same; None if there is none.
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
