r"""torch.optim's update rules for K networks at once, every hyperparameter a number a network.

Shapes: rows, gradients and states are (K, P); a hyperparameter is (K, 1). With g the gradient, w the weights:
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
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LRScheduler

from bnlab.stacked.c_functions import UpdateInC, functions_of
from bnlab.stacked.same_bits import same_update

__all__ = ["StackedOptimizer", "clip_gradients", "moment_names", "why_not_stacked"]

# Every argument of an optimizer is of one of three kinds; one that torch adds is of none, and has no stacked form.
_PER_NETWORK = {
    SGD: ("lr", "momentum", "dampening", "weight_decay"),
    RMSprop: ("lr", "alpha", "eps", "weight_decay", "momentum"),
    Adam: ("lr", "betas", "eps", "weight_decay"),
    AdamW: ("lr", "betas", "eps", "weight_decay"),
}
# What decides on the formula: the only value that has one here; None: any, the same for all networks of a stack.
_SHARED: dict[type[Optimizer], dict[str, bool | None]] = {
    SGD: {"nesterov": None},
    RMSprop: {"centered": False, "capturable": False},
    Adam: {"amsgrad": False, "capturable": False, "decoupled_weight_decay": False},
    AdamW: {"amsgrad": False, "capturable": False, "decoupled_weight_decay": True},
}
_SHARED_BY_ALL: dict[str, bool | None] = {"maximize": False, "differentiable": False}
# In which order torch computes an update, and so how it rounds.
_ROUNDING = {"foreach", "fused"}


def why_not_stacked(optimizer: Optimizer, scheduler: LRScheduler | None = None) -> str | None:
    """Why `StackedOptimizer` cannot do what `optimizer` does under `scheduler`; None if it can."""
    kind = type(optimizer)
    if kind not in _PER_NETWORK:
        return f"the optimizer {kind.__name__} has no stacked form"
    if len(optimizer.param_groups) != 1:
        return "the optimizer has several parameter groups"
    group = optimizer.param_groups[0]
    shared = _SHARED[kind] | _SHARED_BY_ALL
    for name in dict.fromkeys([*optimizer.defaults, *_arguments(kind)]):
        value = group.get(name)
        if name in _PER_NETWORK[kind]:
            numbers = value if isinstance(value, tuple | list) else [value]
            is_served = all(isinstance(number, int | float) for number in numbers)
        else:
            is_served = name in _ROUNDING or (name in shared and shared[name] in (None, value))
        if not is_served:
            return f"the optimizer's setting {name}={value} has no stacked form"
    return None if scheduler is None else _why_not_scheduled(scheduler, group)


def _arguments(kind: type[Optimizer]) -> list[str]:
    return [name for name in signature(kind).parameters if name != "params"]


def _why_not_scheduled(scheduler: LRScheduler, group: Mapping[str, Any]) -> str | None:
    """A schedule sees an optimizer whose weights and states stand still: torch's own read nothing but its settings."""
    for part in (scheduler, *getattr(scheduler, "_schedulers", ())):  # of a sequence or a chain
        if type(part).__module__ != LRScheduler.__module__:
            return f"the schedule {type(part).__name__} is not one of torch's"
    if 0 in (group.get("base_momentum"), group.get("max_momentum")):  # whether it is 0 decides on the states
        return "a momentum that the schedule moves to or from 0 has no stacked form"
    return None


def moment_names(*optimizers: Optimizer) -> tuple[str, ...]:
    """Of what these optimizers of one class keep beside the weights; of none that has no stacked form."""
    kind = type(optimizers[0])
    if kind in (Adam, AdamW):
        return ("exp_avg", "exp_avg_sq")
    has_momentum = any(optimizer.param_groups[0].get("momentum") for optimizer in optimizers)
    momentum = ("momentum_buffer",) if has_momentum else ()
    return ("square_avg", *momentum) if kind is RMSprop else momentum


class StackedOptimizer:
    """One step for K networks, each as its own `torch.optim` optimizer would do it.

    Args:
        optimizers: one a network, over that network's parameters, of one class. Their `param_groups` hold the numbers,
            which schedules move; `read` takes them over.
        rows: (K, P), updated in place.
        gradients: as rows; written over in a step.
        fused: let torch's own CPU kernels do SGD, Adam and AdamW, a call a network: bit for bit what it gets alone
            with fused=True, and for Adam in 14 µs a network where the operations here take 37. None: on the CPU.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        rows: Tensor,
        gradients: Tensor,
        *,
        fused: bool | None = None,
    ) -> None:
        for optimizer in optimizers:
            reason = why_not_stacked(optimizer)
            if reason is not None:
                raise ValueError(f"{reason}.")
        self.kind = type(optimizers[0])
        self.optimizers = list(optimizers)
        self.num_steps = 0
        self._fused = rows.is_cpu if fused is None else fused
        self._nesterov = bool(optimizers[0].param_groups[0].get("nesterov", False))
        self.states = {name: torch.zeros_like(rows) for name in moment_names(*self.optimizers)}
        self._attach(rows, gradients)

    def _attach(self, rows: Tensor, gradients: Tensor) -> None:
        self.rows, self.gradients = rows, gradients
        self._scratch = torch.empty_like(rows)
        # Parameter by parameter: the kernels round the last few numbers of each, which fill no vector, in another way.
        sizes = [parameter.numel() for parameter in self.optimizers[0].param_groups[0]["params"]]
        self._networks = [
            [row.split(sizes) for row in of_network]
            for of_network in zip(rows, gradients, *self.states.values(), strict=True)
        ]
        self._counts = [torch.zeros((), dtype=torch.float32)] * len(sizes)
        self._sizes = tuple(sizes)
        self.read()

    def keep(self, indices: Sequence[int], rows: Tensor, gradients: Tensor) -> None:
        """Go on with the networks at `indices` only, whose numbers are now in `rows` and `gradients`."""
        self.optimizers = [self.optimizers[index] for index in indices]
        self.states = {name: state[list(indices)] for name, state in self.states.items()}
        self._attach(rows, gradients)

    def moments(self, index: int) -> dict[str, Tensor]:
        """A copy of what network `index` has of `states`, which its own optimizer would have."""
        names = moment_names(self.optimizers[index]) if self.num_steps else ()
        return {name: self.states[name][index].clone() for name in names}

    def load(self, moments: Sequence[Mapping[str, Tensor]], num_steps: int) -> None:
        """Take over what `moments` gave of each network, all of them after `num_steps` steps."""
        self.num_steps = num_steps
        for index, of_network in enumerate(moments):
            for name, row in of_network.items():
                self.states[name][index].copy_(row)

    def state_dict(self, index: int, shapes: Mapping[str, torch.Size]) -> dict[str, Any]:
        """What the `state_dict` of network `index`'s own optimizer would be; `shapes` are its parameters'."""
        return self.copy(index, shapes)()

    def copy(self, index: int, shapes: Mapping[str, torch.Size]) -> Callable[[], dict[str, Any]]:
        """`state_dict` as it is now, the numbers copied in one piece and told apart in a call of the result."""
        rows = self.moments(index)
        groups = self.optimizers[index].state_dict()["param_groups"]
        count = {"step": float(self.num_steps)} if self.kind is not SGD and self.num_steps else {}

        def state_dict() -> dict[str, Any]:
            parts = {name: row.split([shape.numel() for shape in shapes.values()]) for name, row in rows.items()}
            state = {
                number: {
                    **{name: torch.tensor(value) for name, value in count.items()},
                    **{name: part[number].clone().view(shape) for name, part in parts.items()},
                }
                for number, shape in enumerate(shapes.values())
            }
            return {"state": state if rows else {}, "param_groups": groups}

        return state_dict

    def read(self) -> None:
        """Take the hyperparameters from the optimizers; to be called after a schedule has moved them."""
        groups = [optimizer.param_groups[0] for optimizer in self.optimizers]
        numbers: dict[str, list[float]] = {}
        for name in _PER_NETWORK[self.kind]:
            if name == "betas":
                numbers |= {f"beta{i + 1}": [float(group["betas"][i]) for group in groups] for i in (0, 1)}
            else:
                numbers[name] = [float(group[name]) for group in groups]
        self._numbers = numbers
        self._columns = {name: self._column(of_networks) for name, of_networks in numbers.items()}
        # Differences are taken before they are rounded: 1 - 0.999 in fp32 has only five digits left.
        for name in ("beta1", "beta2", "alpha", "dampening"):
            if name in numbers:
                self._columns[f"1 - {name}"] = self._column([1 - number for number in numbers[name]])
        self._decays = any(numbers["weight_decay"])
        self._update = self._in_c()

    def _in_c(self) -> UpdateInC | None:
        if not self._fused or self.kind is not SGD or functions_of(self.rows.dtype) is None:
            return None
        if not same_update(self.rows.dtype, self._sizes, self._nesterov):
            return None
        velocity = self.states.get("momentum_buffer")
        return UpdateInC.over(self.rows, self.gradients, velocity, self._sizes, self._numbers, nesterov=self._nesterov)

    def begin_step(self) -> UpdateInC | None:
        """Where a step can be done network by network in C, count it and return it, to be done by `bnlab.stacked.mlp`.

        A network's numbers and its gradients are still in the first caches then.
        """
        if self._update is not None:
            self._update.is_first = self.num_steps == 0
            self.num_steps += 1
        return self._update

    def _column(self, numbers: Sequence[float]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float64).to(self.rows).unsqueeze(1)

    @torch.no_grad()
    def step(self) -> None:
        self.num_steps += 1
        if self._fused and self.kind is not RMSprop:
            (self._step_fused_sgd if self.kind is SGD else self._step_fused_adam)()
            return
        if self._decays and self.kind is not AdamW:
            self.gradients.addcmul_(self.rows, self._columns["weight_decay"])
        if self.kind is SGD:
            self._step_sgd()
        elif self.kind is RMSprop:
            self._step_rmsprop()
        else:
            self._step_adam()

    def _step_sgd(self) -> None:
        g, lr = self.gradients, self._columns["lr"]
        if "momentum_buffer" not in self.states:
            self.rows.addcmul_(g, lr, value=-1)
            return
        v, momentum = self.states["momentum_buffer"], self._columns["momentum"]
        if self.num_steps == 1:
            v.copy_(g)
        elif any(self._numbers["dampening"]):
            v.mul_(momentum).addcmul_(g, torch.where(momentum == 0, 1, self._columns["1 - dampening"]))
        else:
            v.mul_(momentum).add_(g)
        if self._nesterov:
            v = g.addcmul_(v, momentum)
        self.rows.addcmul_(v, lr, value=-1)

    def _step_rmsprop(self) -> None:
        g, u, s = self.gradients, self._scratch, self.states["square_avg"]
        torch.mul(g, self._columns["1 - alpha"], out=u)
        s.mul_(self._columns["alpha"]).addcmul_(u, g)
        torch.sqrt(s, out=u)
        u.add_(self._columns["eps"])
        lr = self._columns["lr"]
        if "momentum_buffer" in self.states:
            v = self.states["momentum_buffer"].mul_(self._columns["momentum"]).addcdiv_(g, u)
            self.rows.addcmul_(v, lr, value=-1)
        else:
            self.rows.addcdiv_(g.mul_(-lr), u)

    def _step_fused_sgd(self) -> None:
        numbers = self._numbers
        for index, (rows, gradients, *buffers) in enumerate(self._networks):
            torch._fused_sgd_(
                rows,
                gradients,
                *(buffers if numbers["momentum"][index] else [[]]),
                weight_decay=numbers["weight_decay"][index],
                momentum=numbers["momentum"][index],
                lr=numbers["lr"][index],
                dampening=numbers["dampening"][index],
                nesterov=self._nesterov,
                maximize=False,
                is_first_step=self.num_steps == 1,
            )

    def _step_fused_adam(self) -> None:
        self._counts[0].fill_(self.num_steps)
        step: Callable[..., None] = torch._fused_adam_ if self.kind is Adam else torch._fused_adamw_
        numbers = self._numbers
        for index, network in enumerate(self._networks):
            step(
                *network,
                [],
                self._counts,
                lr=numbers["lr"][index],
                beta1=numbers["beta1"][index],
                beta2=numbers["beta2"][index],
                weight_decay=numbers["weight_decay"][index],
                eps=numbers["eps"][index],
                amsgrad=False,
                maximize=False,
            )

    def _step_adam(self) -> None:
        g, u, m, s = self.gradients, self._scratch, self.states["exp_avg"], self.states["exp_avg_sq"]
        numbers = self._numbers
        if self.kind is AdamW and self._decays:
            decays = zip(numbers["lr"], numbers["weight_decay"], strict=True)
            self.rows.mul_(self._column([1 - lr * decay for lr, decay in decays]))
        corrections = [1 - beta**self.num_steps for beta in numbers["beta1"]]
        steps = self._column([lr / correction for lr, correction in zip(numbers["lr"], corrections, strict=True)])
        roots = self._column([(1 - beta**self.num_steps) ** 0.5 for beta in numbers["beta2"]])
        torch.sub(g, m, out=u)
        m.addcmul_(u, self._columns["1 - beta1"])
        torch.mul(g, g, out=u)
        s.mul_(self._columns["beta2"]).addcmul_(u, self._columns["1 - beta2"])
        torch.sqrt(s, out=u)
        u.div_(roots).add_(self._columns["eps"])
        torch.div(m, u, out=u)
        self.rows.addcmul_(u, steps, value=-1)


@torch.no_grad()
def clip_gradients(gradients: Tensor, limit: Tensor, algorithm: str = "norm") -> None:
    """Clip the gradients (K, P) of each network by itself, in place, as `torch.nn.utils` does for one.

    Args:
        gradients: (K, P).
        limit: (K, 1).
        algorithm: "norm": g <- g min(1, limit / (||g|| + 1e-6));  "value": each number to [-limit, limit].
    """
    if algorithm == "value":
        torch.clamp(gradients, -limit, limit, out=gradients)
    else:
        norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
        gradients.mul_((limit / (norms + 1e-6)).clamp_(max=1))
