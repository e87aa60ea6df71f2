"""Train K multilayer perceptrons as one, with a step written by hand."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bnlab.data import Split
from bnlab.network import MLP
from bnlab.stacked.formulas.criterion import CLASSES, Criterion
from bnlab.stacked.formulas.layer_table import LAYERS
from bnlab.stacked.formulas.layers import Layer
from bnlab.stacked.formulas.stack import Stack
from bnlab.stacked.networks.compiled_step import CompiledStep
from bnlab.stacked.networks.optimizers import StackedOptimizer

__all__ = ["StackedMLP"]


class StackedMLP:
    """Compute losses, gradients and logits of a stack of `bnlab.network.MLP`s.

    Args:
        networks: K networks of one architecture; eps and momentum of their batch norms may differ.
        dtype: the dtype to train in; None keeps the networks' own.
        criterion: what to minimize.
    Attributes:
        stack: the parameters and buffers.
        outputs: (K, N, outputs), the outputs for the newest batch if the criterion keeps them.
    """

    outputs: Tensor | None = None

    def __init__(
        self, networks: Sequence[nn.Module], dtype: torch.dtype | None = None, criterion: Criterion = CLASSES
    ) -> None:
        self._criterion = criterion
        self.stack = Stack(networks, dtype)
        self._modules = [list(network.children()) for network in networks]
        self._build()

    @staticmethod
    def takes(network: nn.Module) -> bool:
        """Whether the network consists of layers that a stack has a formula for."""
        return type(network) is MLP and all(
            type(module) is nn.Flatten or (type(module) in LAYERS and LAYERS[type(module)].takes(module))
            for module in network
        )

    @staticmethod
    def prepare(split: Split) -> Split:
        """Return the samples as `step` and `logits` take them: (N, features)."""
        return Split(split.x.flatten(1), split.y)

    def _build(self) -> None:
        """Build the layers over the rows of the stack."""
        self._layers: list[Layer] = []
        for part, modules in zip(self.stack.parts(), zip(*self._modules, strict=True), strict=True):
            if not isinstance(modules[0], nn.Flatten):  # `prepare` flattens
                self._layers.append(LAYERS[type(modules[0])].of(modules, part))
        in_c = self._criterion is CLASSES and CompiledStep.takes(self._layers)
        self._compiled = CompiledStep(self._layers) if in_c else None

    def step(self, x: Tensor, y: Tensor, optimizer: StackedOptimizer | None = None) -> tuple[Tensor, Tensor]:
        """Run forward and backward: update the running statistics, write the gradients to `stack.gradients`.

        Args:
            x: (K, N, features), or (N, features) for all networks.
            y: labels, (K, N) or (N,).
            optimizer: an optimizer over the rows of the stack; it makes its step, too, and may overwrite the gradients.
        Returns:
            The mean losses (K,), and what the score needs (`Criterion.counts`).
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
        self._keep(logits)
        losses, gradient = self._criterion.losses_and_gradient(logits, y)
        grad: Tensor | None = gradient
        for index in range(len(self._layers) - 1, -1, -1):
            assert grad is not None
            grad = self._layers[index].backward(grad, index > 0)
        if optimizer is not None:
            optimizer.step()
        return losses, self._criterion.counts(logits, y)

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits (K, N, classes) in evaluation mode, from x (N, features)."""
        for layer in self._layers:
            x = layer.evaluate(x)
        return x

    def evaluate(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `step` returns, in evaluation mode, from (N, features) and (N,); change nothing."""
        program = None if self._compiled is None else self._compiled.evaluation(len(x))
        if program is not None:
            return program(x, y)
        logits = self.logits(x)
        self._keep(logits)
        return self._criterion.losses(logits, y), self._criterion.counts(logits, y)

    def _keep(self, outputs: Tensor) -> None:
        if self._criterion.keeps_outputs:
            self.outputs = outputs

    @staticmethod
    def is_all_in_stack() -> bool:
        """Whether the stack holds all that training changes, after a call of `sync`."""
        return True

    def sync(self) -> None:
        """Write what is counted once for all networks to the stack's buffers."""
        for layer in self._layers:
            layer.sync()

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Load each network's `stack.state_dict`, all taken after the same number of steps."""
        for index, state in enumerate(states):
            self.stack.load_state_dict(index, state)
        self._build()

    def keep(self, indices: Sequence[int]) -> None:
        """Keep only the networks at `indices`."""
        self.sync()
        self.stack.keep(indices)
        self._modules = [self._modules[index] for index in indices]
        self._build()
