"""An optimizer and a normalization of a user's own, alone and in stacks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bnlab.stacked import LAYERS, UPDATE_RULES, Layer, Part, Update, UpdateRule


class Lion(Optimizer):
    """w <- w - lr (sign(beta1 m + (1 - beta1) g) + weight_decay w);  m <- beta2 m + (1 - beta2) g.

    Chen et al. 2023, arXiv:2302.06675.
    """

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for w in group["params"]:
                m = self.state[w].setdefault("exp_avg", torch.zeros_like(w))
                direction = (beta1 * m + (1 - beta1) * w.grad).sign()
                w.sub_(group["lr"] * (direction + group["weight_decay"] * w))
                m.mul_(beta2).add_((1 - beta2) * w.grad)
        return loss


class LionInStacks(UpdateRule):
    numbers = ("lr", "betas", "weight_decay")

    def states(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        return ("exp_avg",)

    def step(self, update: Update) -> None:
        w, g, m = update.w, update.g, update.states["exp_avg"]
        direction = (update["beta1"] * m + update.complement("beta1") * g).sign()
        w.sub_(update["lr"] * (direction + update["weight_decay"] * w))
        m.mul_(update["beta2"]).add_(update.complement("beta2") * g)


UPDATE_RULES[Lion] = LionInStacks()


class Shrink(nn.Module):
    """y = scale x / (1 + x² / width)."""

    def __init__(self, num_features: int, width: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(num_features))
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x / (1 + x.square() / self.width)


class ShrinkInStacks(Layer):
    """With u = x / (1 + x² / width):  dL/dx = scale (1 - x² / width) / (1 + x² / width)² g,  dL/dscale = sum(u g)."""

    def __init__(self, widths: Sequence[float], part: Part) -> None:
        self._scale, self._grad_scale = part.parameters["scale"], part.gradients["scale"]
        self._width = torch.tensor(widths, dtype=self._scale.dtype).view(-1, 1, 1)

    @classmethod
    def of(cls, modules: Sequence[Any], part: Part) -> Self:
        return cls([module.width for module in modules], part)

    def evaluate(self, x: Tensor) -> Tensor:
        return self._scale.unsqueeze(1) * x / (1 + x.square() / self._width)

    def forward(self, x: Tensor) -> Tensor:
        self._x = x
        return self.evaluate(x)

    def backward(self, grad_y: Tensor, needs_x: bool) -> Tensor | None:
        x, squares = self._x, self._x.square() / self._width
        self._grad_scale.copy_((x / (1 + squares) * grad_y).sum(1))
        return self._scale.unsqueeze(1) * (1 - squares) / (1 + squares).square() * grad_y if needs_x else None


LAYERS[Shrink] = ShrinkInStacks
