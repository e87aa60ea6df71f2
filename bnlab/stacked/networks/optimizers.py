"""Run K optimizers of torch.optim as one; every hyperparameter is one number per network."""

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bnlab.errors import UserError
from bnlab.internals.torch_internals import parts_of_schedule
from bnlab.stacked.compiled.c_functions import UpdateInC
from bnlab.stacked.networks.update_rules import UPDATE_RULES, Update

__all__ = ["StackedOptimizer", "clip_gradients", "moment_names", "why_not_stacked"]

# Settings that every torch optimizer has: first those of which one value alone has a stacked form, then those that
# choose the order in which torch computes an update, and so how it rounds.
_SHARED_BY_ALL = {"maximize": False, "differentiable": False}
_ROUNDING = {"foreach", "fused"}


def why_not_stacked(optimizer: Optimizer, scheduler: LRScheduler | None = None) -> str | None:
    """Say why `StackedOptimizer` cannot do what `optimizer` does under `scheduler`; None if it can.

    An argument that the optimizer's rule does not list, such as one that a later torch adds, has no stacked form.
    """
    kind = type(optimizer)
    rule = UPDATE_RULES.get(kind)
    if rule is None:
        return f"the optimizer {kind.__name__} has no stacked form"
    if len(optimizer.param_groups) != 1:
        return "the optimizer has several parameter groups"
    group = optimizer.param_groups[0]
    shared = {**rule.shared, **_SHARED_BY_ALL}
    for name in dict.fromkeys([*optimizer.defaults, *_arguments(kind)]):
        value = group.get(name)
        if name in rule.numbers:
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
    """Say why not: the schedule sees weights and states that never change, so it may read nothing but settings."""
    waiting = [scheduler]
    while waiting:
        schedule = waiting.pop()
        parts = parts_of_schedule(schedule)
        if type(schedule).__module__ != LRScheduler.__module__:
            return f"the schedule {type(schedule).__name__} is not one of torch's"
        if parts is None:
            return f"the parts of the schedule {type(schedule).__name__} are unknown"
        waiting += parts
    if 0 in (group.get("base_momentum"), group.get("max_momentum")):  # a momentum of 0 keeps no state
        return "a momentum that the schedule moves to or from 0 has no stacked form"
    return None


def moment_names(*optimizers: Optimizer) -> tuple[str, ...]:
    """Name the states that these optimizers, all of one class, keep; none if they have no stacked form."""
    rule = UPDATE_RULES.get(type(optimizers[0]))
    if rule is None:
        return ()
    return tuple(dict.fromkeys(name for each in optimizers for name in rule.states(each.param_groups[0])))


class StackedOptimizer:
    """Update K networks, each as its own `torch.optim` optimizer would, by a rule of `UPDATE_RULES`.

    Args:
        optimizers: one per network, over that network's parameters, all of one class. Schedules change the
            hyperparameters in their `param_groups`, from which `read` copies them.
        rows: (K, P), updated in place.
        gradients: (K, P); a step overwrites them.
        fused: use torch's fused CPU kernels where they exist, one call per network: bit for bit what the network gets
            alone with fused=True. None uses them on the CPU.
    Raises:
        UserError: the optimizers have no stacked form.
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
                raise UserError(f"{reason}.")
        self.optimizers = list(optimizers)
        self.num_steps = 0
        self._rule = UPDATE_RULES[type(optimizers[0])]
        first = optimizers[0].param_groups[0]
        self._shared = {name: first.get(name) for name in self._rule.shared}
        for optimizer in optimizers[1:]:
            for name, value in self._shared.items():
                other = optimizer.param_groups[0].get(name)
                if other != value:
                    raise UserError(f"the optimizer's setting {name} must be the same in a stack: {value}, {other}.")
        self._fused = rows.is_cpu if fused is None else fused
        self.states = {name: torch.zeros_like(rows) for name in moment_names(*self.optimizers)}
        self._attach(rows, gradients)

    def _attach(self, rows: Tensor, gradients: Tensor) -> None:
        sizes = tuple(parameter.numel() for parameter in self.optimizers[0].param_groups[0]["params"])
        self._update = Update(rows, gradients, self.states, {}, self._shared, sizes)
        self.read()

    def keep(self, indices: Sequence[int], rows: Tensor, gradients: Tensor) -> None:
        """Keep only the networks at `indices`, whose numbers are now in `rows` and `gradients`."""
        self.optimizers = [self.optimizers[index] for index in indices]
        self.states = {name: state[list(indices)] for name, state in self.states.items()}
        self._attach(rows, gradients)

    def moments(self, index: int) -> dict[str, Tensor]:
        """Return a copy of the states of network `index`."""
        names = moment_names(self.optimizers[index]) if self.num_steps else ()
        return {name: self.states[name][index].clone() for name in names}

    def load(self, moments: Sequence[Mapping[str, Tensor]], num_steps: int) -> None:
        """Load the `moments` of each network, all taken after `num_steps` steps."""
        self.num_steps = num_steps
        for index, of_network in enumerate(moments):
            for name, row in of_network.items():
                self.states[name][index].copy_(row)

    def state_dict(self, index: int, shapes: Mapping[str, torch.Size]) -> dict[str, Any]:
        """Return the `state_dict` of network `index`'s own optimizer; `shapes` are those of its parameters."""
        return self.copy(index, shapes)()

    def copy(self, index: int, shapes: Mapping[str, torch.Size]) -> Callable[[], dict[str, Any]]:
        """Copy the states now, as one block; return a function that splits them into a `state_dict` on demand."""
        rows = self.moments(index)
        groups = self.optimizers[index].state_dict()["param_groups"]
        count = {"step": float(self.num_steps)} if self._rule.counts_steps and self.num_steps else {}

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
        """Copy the hyperparameters from the optimizers; to be called after a schedule has changed them."""
        groups = [optimizer.param_groups[0] for optimizer in self.optimizers]
        numbers: dict[str, list[float]] = {}
        for name in self._rule.numbers:
            if name == "betas":
                numbers |= {f"beta{i + 1}": [float(group["betas"][i]) for group in groups] for i in (0, 1)}
            else:
                numbers[name] = [float(group[name]) for group in groups]
        self._update.read(numbers)
        self._in_c = self._rule.in_c(self._update) if self._fused else None

    def begin_step(self) -> UpdateInC | None:
        """If C can update network by network, count the step and return the update for `bnlab.stacked.networks.mlp`.

        A network's weights and gradients are then still in the innermost caches.
        """
        if self._in_c is not None:
            self._in_c.is_first = self.num_steps == 0
            self.num_steps += 1
        return self._in_c

    @torch.no_grad()
    def step(self) -> None:
        self.num_steps += 1
        self._update.num_steps = self.num_steps
        (self._rule.step_fused if self._fused else self._rule.step)(self._update)


@torch.no_grad()
def clip_gradients(gradients: Tensor, limit: Tensor, algorithm: str = "norm") -> None:
    """Clip the gradients of each network separately, in place, as `torch.nn.utils` does for one.

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
