"""K multilayer perceptrons as one, with a step written by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnlab.batch_norm import BatchNorm1d
from bnlab.data import Split
from bnlab.network import MLP
from bnlab.stacked.compiled_step import CompiledStep
from bnlab.stacked.criterion import CLASSES, Criterion
from bnlab.stacked.layers import ACTIVATIONS, Activation, BatchNorm, Layer, Linear, NativeBatchNorm
from bnlab.stacked.optimizers import StackedOptimizer
from bnlab.stacked.stack import Stack

__all__ = ["StackedMLP"]

_NORMS = (BatchNorm1d, nn.BatchNorm1d)


class StackedMLP:
    """The networks of a stack of `bnlab.network.MLP`s: their losses, their gradients, their logits.

    Args:
        networks: K of them, of one architecture; eps and momentum of their batch norms may differ.
        dtype: what to train in; None for the dtype they have.
        criterion: what to minimize.
    Attributes:
        stack: the numbers.
    """

    def __init__(
        self, networks: Sequence[nn.Module], dtype: torch.dtype | None = None, criterion: Criterion = CLASSES
    ) -> None:
        self._criterion = criterion
        self.stack = Stack(networks, dtype)
        self._norms: dict[str, tuple[Tensor, Tensor | None]] = {}  # eps and momentum of each network
        for name, module in networks[0].named_children():
            if isinstance(module, _BatchNorm):
                of_networks: Any = [network.get_submodule(name) for network in networks]
                eps = torch.tensor([norm.eps for norm in of_networks], dtype=torch.float64)
                momentum = None
                if module.momentum is not None:
                    momentum = torch.tensor([norm.momentum for norm in of_networks], dtype=torch.float64)
                self._norms[name] = eps, momentum
        self._build()

    @staticmethod
    def takes(network: nn.Module) -> bool:
        """Whether it is made of the layers that are known here."""
        return type(network) is MLP and all(
            type(module) in (nn.Flatten, nn.Linear, *ACTIVATIONS)
            or (type(module) in _NORMS and not getattr(module, "frozen", False))
            for module in network
        )

    @staticmethod
    def prepare(split: Split) -> Split:
        """The samples as `step` and `logits` take them: (N, features)."""
        return Split(split.x.flatten(1), split.y)

    def _build(self) -> None:
        """The layers, over the rows of the stack."""
        stack = self.stack
        views, gradients, buffers = stack.views(stack.rows), stack.views(stack.gradients), stack.buffers
        self._layers: list[Layer] = []
        self._counts: list[tuple[Tensor, Tensor]] = []
        start = 0
        for name, module in stack.template.named_children():
            if isinstance(module, nn.Linear):
                weight, bias = f"{name}.weight", f"{name}.bias"
                self._layers.append(Linear(views[weight], views.get(bias), gradients[weight], gradients.get(bias)))
            elif isinstance(module, _BatchNorm):
                pieces = len(list(module.parameters()))
                part = slice(start, start + pieces * module.num_features)
                running_mean, running_var = (
                    buffers.get(f"{name}.running_{statistic}") for statistic in ("mean", "var")
                )
                layer = (BatchNorm if isinstance(module, BatchNorm1d) else NativeBatchNorm)(
                    stack.rows[:, part].unflatten(1, (pieces, module.num_features)),
                    stack.gradients[:, part].unflatten(1, (pieces, module.num_features)),
                    running_mean,
                    running_var,
                    *self._norms[name],
                )
                self._layers.append(layer)
                count = buffers.get(f"{name}.num_batches_tracked")
                if count is not None:
                    layer.num_batches.copy_(count[0])
                    self._counts.append((count, layer.num_batches))
            elif not isinstance(module, nn.Flatten):
                self._layers.append(Activation(module))
            start += sum(parameter.numel() for parameter in module.parameters())
        in_c = self._criterion is CLASSES and CompiledStep.takes(self._layers)
        self._compiled = CompiledStep(self._layers) if in_c else None

    def step(self, x: Tensor, y: Tensor, optimizer: StackedOptimizer | None = None) -> tuple[Tensor, Tensor]:
        """Forward and backward; the running statistics are updated, the gradients are in `stack.gradients`.

        Args:
            x: (K, N, features), or (N, features) for all networks.
            y: labels, (K, N) or (N,).
            optimizer: over the rows of the stack; makes its step, too, after which the gradients are anything.
        Returns:
            the mean losses (K,), and what the score needs (`Criterion.counts`).
        """
        program = None if self._compiled is None else self._compiled.step(x.shape[-2])
        if program is not None:
            update = None if optimizer is None else optimizer.begin_step()
            result = program(x, y, update)
            if optimizer is not None and update is None:
                optimizer.step()
            return result
        logits = x
        for layer in self._layers:
            logits = layer.forward(logits)
        losses, gradient = self._criterion.losses_and_gradient(logits, y)
        grad: Tensor | None = gradient
        for index in range(len(self._layers) - 1, -1, -1):
            assert grad is not None
            grad = self._layers[index].backward(grad, index > 0)
        if optimizer is not None:
            optimizer.step()
        return losses, self._criterion.counts(logits, y)

    def logits(self, x: Tensor) -> Tensor:
        """(K, N, classes) in evaluation mode, from (N, features)."""
        for layer in self._layers:
            x = layer.evaluate(x)
        return x

    def evaluate(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """As `step`, in evaluation mode, from (N, features) and (N,); nothing is changed."""
        program = None if self._compiled is None else self._compiled.evaluation(len(x))
        if program is not None:
            return program(x, y)
        logits = self.logits(x)
        return self._criterion.losses(logits, y), self._criterion.counts(logits, y)

    @staticmethod
    def is_all_in_stack() -> bool:
        """Whether the stack holds all that a training changes, once `sync` was called."""
        return True

    def sync(self) -> None:
        """Bring what is counted once for all networks into the stack's buffers."""
        for buffer, count in self._counts:
            buffer.fill_(count)

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Take over what `stack.state_dict` gave of each network, all of them after as many steps."""
        for index, state in enumerate(states):
            self.stack.load_state_dict(index, state)
        self._build()

    def keep(self, indices: Sequence[int]) -> None:
        """Go on with the networks at `indices` only."""
        self.sync()
        self.stack.keep(indices)
        chosen = list(indices)
        self._norms = {
            name: (eps[chosen], None if momentum is None else momentum[chosen])
            for name, (eps, momentum) in self._norms.items()
        }
        self._build()
