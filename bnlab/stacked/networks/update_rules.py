r"""The update rules of torch.optim for K networks at once, one entry of `UPDATE_RULES` each.

With g the gradient, w the weights, and one value of every hyperparameter per network:
    all but AdamW:   g <- g + weight_decay w
    SGD:             w <- w - lr g
    momentum:        v <- momentum v + (1 - dampening) g (the first time v = g);   w <- w - lr v
    Nesterov:        v as before;   w <- w - lr (g + momentum v)
    RMSprop:         s <- alpha s + (1 - alpha) g²;   u = g / (sqrt(s) + eps);   w <- w - lr u,
                     with momentum: v <- momentum v + u;   w <- w - lr v
    Adam:            m <- beta1 m + (1 - beta1) g;   s <- beta2 s + (1 - beta2) g²
                     w <- w - lr / (1 - beta1^t) m / (sqrt(s) / sqrt(1 - beta2^t) + eps)
    AdamW:           w <- (1 - lr weight_decay) w, then as Adam
The momentum of an optimizer and the momentum of batch norm's statistics are two different things.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from bnlab.internals.torch_internals import fused_adam, fused_adamw, fused_sgd
from bnlab.stacked.compiled.c_functions import UpdateInC, functions_of
from bnlab.stacked.networks.same_bits import same_update

__all__ = ["UPDATE_RULES", "Update", "UpdateRule"]


@dataclass
class Update:
    """The weights, gradients and states that a rule updates, for K networks with P weights each.

    `update["lr"]` is a hyperparameter as a column, (K, 1); `update.complement("beta1")` is 1 - beta1.

    Attributes:
        w: the weights, (K, P), updated in place.
        g: their gradients, (K, P); a step may overwrite them.
        states: what the rule keeps from step to step, (K, P) each; zeros before the first step.
        numbers: the hyperparameters, one number per network each.
        shared: the settings that all networks share.
        sizes: the sizes of the parameters, in their order in a row of w.
        num_steps: the number of steps, including the current one.
    """

    w: Tensor
    g: Tensor
    states: dict[str, Tensor]
    numbers: dict[str, list[float]]
    shared: dict[str, Any]
    sizes: tuple[int, ...]
    num_steps: int = 0
    scratch: Tensor = field(init=False)  # (K, P), for intermediate results
    pieces: list[list[Any]] = field(init=False)  # per network: w, g and the states, split by parameter
    count: Tensor = field(init=False)  # for torch's kernels, which take the number of steps as a tensor

    def __post_init__(self) -> None:
        self.scratch = torch.empty_like(self.w)
        # The kernels round the last numbers of each parameter, which do not fill a vector, differently.
        self.pieces = [
            [row.split(self.sizes) for row in of_network]
            for of_network in zip(self.w, self.g, *self.states.values(), strict=True)
        ]
        self.count = torch.zeros((), dtype=torch.float32)
        self._columns: dict[str, Tensor] = {}

    def read(self, numbers: dict[str, list[float]]) -> None:
        """Copy hyperparameters that a schedule has changed."""
        self.numbers = numbers
        self._columns = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._columns:
            self._columns[name] = self.column(self.numbers[name])
        return self._columns[name]

    def complement(self, name: str) -> Tensor:
        """Return 1 - number, (K, 1), subtracted before rounding: in fp32, 1 - 0.999 keeps only five digits."""
        key = f"1 - {name}"
        if key not in self._columns:
            self._columns[key] = self.column([1 - number for number in self.numbers[name]])
        return self._columns[key]

    def column(self, numbers: Sequence[float]) -> Tensor:
        """Return one number per network as (K, 1)."""
        return torch.tensor(numbers, dtype=torch.float64).to(self.w).unsqueeze(1)

    def decay_gradients(self) -> None:
        """Update g <- g + weight_decay w."""
        if any(self.numbers["weight_decay"]):
            self.g.addcmul_(self.w, self["weight_decay"])


class UpdateRule:
    """How an optimizer of one class updates the networks of a stack.

    Attributes:
        numbers: the settings that may differ between networks; `betas` are two numbers, beta1 and beta2.
        shared: the settings that choose the formula, each with the only value supported; None if any value is, as long
            as all networks of a stack share it.
        counts_steps: whether the state of the optimizer holds the number of steps.
    """

    numbers: tuple[str, ...]
    shared: ClassVar[Mapping[str, bool | None]] = {}
    counts_steps = False

    def states(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Name the states that the optimizer of one network keeps under its settings."""
        raise NotImplementedError

    def step(self, update: Update) -> None:
        """Update all networks at once."""
        raise NotImplementedError

    def step_fused(self, update: Update) -> None:
        """Update by torch's fused CPU kernels where they exist, one call per network, with the bits of a single run."""
        self.step(update)

    def in_c(self, update: Update) -> UpdateInC | None:
        """Return the update for the compiled step, network by network, if it gives the same bits as the kernels."""
        return None


class GradientDescent(UpdateRule):
    numbers = ("lr", "momentum", "dampening", "weight_decay")
    shared: ClassVar = {"nesterov": None}

    def states(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if settings["momentum"] else ()

    def step(self, update: Update) -> None:
        update.decay_gradients()
        w, g, lr = update.w, update.g, update["lr"]
        if "momentum_buffer" not in update.states:
            w.addcmul_(g, lr, value=-1)
            return
        v, momentum = update.states["momentum_buffer"], update["momentum"]
        if update.num_steps == 1:
            v.copy_(g)
        elif any(update.numbers["dampening"]):
            v.mul_(momentum).addcmul_(g, torch.where(momentum == 0, 1, update.complement("dampening")))
        else:
            v.mul_(momentum).add_(g)
        if update.shared["nesterov"]:
            v = g.addcmul_(v, momentum)
        w.addcmul_(v, lr, value=-1)

    def step_fused(self, update: Update) -> None:
        if fused_sgd is None:
            self.step(update)
            return
        numbers = update.numbers
        for index, (w, g, *buffers) in enumerate(update.pieces):
            fused_sgd(
                w,
                g,
                *(buffers if numbers["momentum"][index] else [[]]),
                weight_decay=numbers["weight_decay"][index],
                momentum=numbers["momentum"][index],
                lr=numbers["lr"][index],
                dampening=numbers["dampening"][index],
                nesterov=bool(update.shared["nesterov"]),
                maximize=False,
                is_first_step=update.num_steps == 1,
            )

    def in_c(self, update: Update) -> UpdateInC | None:
        nesterov = bool(update.shared["nesterov"])
        if functions_of(update.w.dtype) is None or not same_update(update.w.dtype, update.sizes, nesterov):
            return None
        velocity = update.states.get("momentum_buffer")
        return UpdateInC.over(update.w, update.g, velocity, update.sizes, update.numbers, nesterov=nesterov)


class RootMeanSquare(UpdateRule):
    numbers = ("lr", "alpha", "eps", "weight_decay", "momentum")
    shared: ClassVar = {"centered": False, "capturable": False}
    counts_steps = True

    def states(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        return ("square_avg", "momentum_buffer") if settings["momentum"] else ("square_avg",)

    def step(self, update: Update) -> None:
        update.decay_gradients()
        w, g, u, s = update.w, update.g, update.scratch, update.states["square_avg"]
        torch.mul(g, update.complement("alpha"), out=u)
        s.mul_(update["alpha"]).addcmul_(u, g)
        torch.sqrt(s, out=u)
        u.add_(update["eps"])
        if "momentum_buffer" in update.states:
            v = update.states["momentum_buffer"].mul_(update["momentum"]).addcdiv_(g, u)
            w.addcmul_(v, update["lr"], value=-1)
        else:
            w.addcdiv_(g.mul_(-update["lr"]), u)


class AdaptiveMoments(UpdateRule):
    numbers = ("lr", "betas", "eps", "weight_decay")
    shared: ClassVar = {"amsgrad": False, "capturable": False, "decoupled_weight_decay": False}
    counts_steps = True
    kernel: Callable[..., None] | None = fused_adam and staticmethod(fused_adam)

    def states(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def decay(self, update: Update) -> None:
        update.decay_gradients()

    def step(self, update: Update) -> None:
        self.decay(update)
        numbers, t = update.numbers, update.num_steps
        g, u, m, s = update.g, update.scratch, update.states["exp_avg"], update.states["exp_avg_sq"]
        corrections = [1 - beta**t for beta in numbers["beta1"]]
        steps = update.column([lr / correction for lr, correction in zip(numbers["lr"], corrections, strict=True)])
        roots = update.column([(1 - beta**t) ** 0.5 for beta in numbers["beta2"]])
        torch.sub(g, m, out=u)
        m.addcmul_(u, update.complement("beta1"))
        torch.mul(g, g, out=u)
        s.mul_(update["beta2"]).addcmul_(u, update.complement("beta2"))
        torch.sqrt(s, out=u)
        u.div_(roots).add_(update["eps"])
        torch.div(m, u, out=u)
        update.w.addcmul_(u, steps, value=-1)

    def step_fused(self, update: Update) -> None:
        if self.kernel is None:
            self.step(update)
            return
        update.count.fill_(update.num_steps)
        counts, numbers = [update.count] * len(update.sizes), update.numbers
        for index, pieces in enumerate(update.pieces):
            self.kernel(
                *pieces,
                [],
                counts,
                lr=numbers["lr"][index],
                beta1=numbers["beta1"][index],
                beta2=numbers["beta2"][index],
                weight_decay=numbers["weight_decay"][index],
                eps=numbers["eps"][index],
                amsgrad=False,
                maximize=False,
            )


class DecoupledWeightDecay(AdaptiveMoments):
    shared: ClassVar = {**AdaptiveMoments.shared, "decoupled_weight_decay": True}
    kernel: Callable[..., None] | None = fused_adamw and staticmethod(fused_adamw)

    def decay(self, update: Update) -> None:
        numbers = update.numbers
        if any(numbers["weight_decay"]):
            decays = zip(numbers["lr"], numbers["weight_decay"], strict=True)
            update.w.mul_(update.column([1 - lr * decay for lr, decay in decays]))


# To train your own optimizer in stacks, add an entry for its class here, from the module that defines the class.
UPDATE_RULES: dict[type[Optimizer], UpdateRule] = {
    SGD: GradientDescent(),
    RMSprop: RootMeanSquare(),
    Adam: AdaptiveMoments(),
    AdamW: DecoupledWeightDecay(),
}
