"""Train K networks of any kind as one, by `torch.func.vmap` over the module itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from bnlab.data import Split
from bnlab.errors import UserError, one_line
from bnlab.stacked.formulas.criterion import CLASSES, Criterion
from bnlab.stacked.formulas.stack import Stack
from bnlab.stacked.networks.optimizers import StackedOptimizer
from bnlab.training.network_outputs import check_outputs

__all__ = ["StackedModule"]


class StackedModule:
    """Compute losses, gradients and logits of a stack of any `nn.Module`.

    `vmap` runs the module's own code on all networks at once, and autograd differentiates it; a Function written by
    hand, such as batch norm's, keeps its own backward. A step takes longer than one of `StackedMLP`
    (bnlab/bench/records/sweep.md).

    Args:
        networks: K networks of one architecture.
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
        first = _settings(networks[0])
        for network in networks:
            for (name, own), (_, expected) in zip(_settings(network), first, strict=True):
                for setting in own | expected:
                    if not _is_same(own.get(setting), expected.get(setting)):
                        raise UserError(
                            f"Networks stacked by vmap must have the same settings, but {setting} of layer {name!r} "
                            f"is {own.get(setting)} in one and {expected.get(setting)} in another: only the layers "
                            "of bnlab.MLP may differ in eps and momentum."
                        )
        self.stack = Stack(networks, dtype)
        if dtype is not None:
            self.stack.template.to(dtype)
        self._entered = ""
        self._at_first = _copied(_settings(self.stack.template))
        for name, module in self.stack.template.named_modules():
            module.register_forward_pre_hook(lambda module, inputs, name=name: self._enter(name, module))

    def _enter(self, name: str, module: nn.Module) -> None:
        self._entered = f"layer {name!r} ({type(module).__name__})" if name else type(module).__name__

    @staticmethod
    def prepare(split: Split) -> Split:
        """Return the samples as `step` and `logits` take them: unchanged."""
        return split

    def try_out(self, x: Tensor, num_outputs: int | None = None) -> None:
        """Check on a few samples that the networks can be stacked; change nothing.

        Args:
            num_outputs: the number of outputs that each must return per sample; None if unknown.
        Raises:
            UserError: they cannot be stacked (the message names the layer), or return something else.
        """
        buffers = self.stack.buffers
        self.stack.buffers = {name: buffer.clone() for name, buffer in buffers.items()}
        try:
            dtype = torch.int64 if self._criterion.takes_classes else x.dtype
            outputs: object = self.logits(x)
            check_outputs(outputs[0] if isinstance(outputs, Tensor) else outputs, len(x), num_outputs)
            self.step(x, torch.zeros(len(x), dtype=dtype, device=x.device))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"torch.func.vmap cannot stack {self._entered}: {one_line(error)}") from error
        finally:
            self.stack.buffers = buffers
        self._at_first = _copied(_settings(self.stack.template))

    def is_all_in_stack(self) -> bool:
        """Whether the stack holds all that training changes: a module may count its calls in an attribute, say."""
        now = _settings(self.stack.template)
        return all(_is_same(own, first) for (_, own), (_, first) in zip(now, self._at_first, strict=True))

    def step(self, x: Tensor, y: Tensor, optimizer: StackedOptimizer | None = None) -> tuple[Tensor, Tensor]:
        """Run forward and backward: update the running statistics, write the gradients to `stack.gradients`.

        Args:
            x: (K, N, ...), or (N, ...) for all networks.
            y: labels, (K, N) or (N,).
            optimizer: an optimizer over the rows of the stack; it makes its step, too.
        Returns:
            The mean losses (K,), and what the score needs (`Criterion.counts`).
        """
        is_shared = y.dim() == 1
        with torch.enable_grad():
            rows = self.stack.rows.detach().requires_grad_()
            logits = self._forward(rows, x, is_shared, training=True)
            losses = self._criterion.losses(logits, y)
            (gradients,) = torch.autograd.grad(losses.sum(), rows)
        self.stack.gradients.copy_(gradients)
        if optimizer is not None:
            optimizer.step()
        self._keep(logits.detach())
        return losses.detach(), self._criterion.counts(logits.detach(), y)

    def evaluate(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `step` returns, in evaluation mode, from (N, ...) and (N,); change nothing."""
        logits = self.logits(x)
        self._keep(logits)
        return self._criterion.losses(logits, y), self._criterion.counts(logits, y)

    def _keep(self, outputs: Tensor) -> None:
        if self._criterion.keeps_outputs:
            self.outputs = outputs

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits (K, N, classes) in evaluation mode, from x (N, ...)."""
        with torch.no_grad():
            return self._forward(self.stack.rows, x, is_shared=True, training=False)

    def _forward(self, rows: Tensor, x: Tensor, is_shared: bool, *, training: bool) -> Tensor:
        template = self.stack.template.train(training)

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Any:
            return functional_call(template, (parameters, buffers), (x,))

        run = vmap(one, in_dims=(0, 0, None if is_shared else 0), randomness="error")
        return run(self.stack.views(rows), self.stack.buffers, x)

    def sync(self) -> None:
        """Do nothing: nothing is counted once for all networks here."""

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Load each network's `stack.state_dict`."""
        for index, state in enumerate(states):
            self.stack.load_state_dict(index, state)

    def keep(self, indices: Sequence[int]) -> None:
        """Keep only the networks at `indices`."""
        self.stack.keep(indices)


def _settings(network: nn.Module) -> list[tuple[str, dict[str, Any]]]:
    """Return the attributes of each module, except those that `Stack` holds or that every module has."""
    of_every_module = vars(nn.Module())
    return [
        (name, {key: value for key, value in vars(module).items() if key not in of_every_module})
        for name, module in network.named_modules()
    ]


def _copied(settings: Any) -> Any:
    """Copy containers and tensors, which can be changed in place; keep other objects as they are."""
    if isinstance(settings, dict):
        return {key: _copied(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return type(settings)(map(_copied, settings)) if type(settings) in (list, tuple) else settings
    return settings.clone() if isinstance(settings, Tensor) else settings


def _is_same(own: Any, expected: Any) -> bool:
    """Whether the values are equal; False if they cannot be compared."""
    if own is expected:
        return True
    if type(own) is not type(expected):
        return False
    if isinstance(own, Tensor):
        return torch.equal(own, expected)
    if isinstance(own, dict):
        return own.keys() == expected.keys() and all(_is_same(own[key], expected[key]) for key in own)
    if isinstance(own, list | tuple):
        return len(own) == len(expected) and all(map(_is_same, own, expected))
    return isinstance(own, str | int | float | torch.Size | torch.dtype | torch.device) and own == expected
