"""Records the inputs and outputs of the layers of any network during a forward pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bnlab.internals.torch_internals import CONVOLUTIONS, NORMS

__all__ = ["Call", "channels_last", "kind_of", "recording"]

_NORMS = (NORMS, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)
# These mix the values of a sample, so that no unit has a slope of its own.
_MIXING = ("Softmax", "Softmin", "LogSoftmax", "Softmax2d", "GLU", "MultiheadAttention")


@dataclass(frozen=True)
class Call:
    """A call of a module.

    Attributes:
        name: the module's name in the network.
        kind: "linear", "norm" or "activation".
        x, y: input and output.
    """

    name: str
    kind: str
    module: nn.Module
    x: Tensor
    y: Tensor


def kind_of(module: nn.Module) -> str | None:
    """Return "linear", "norm", "activation" or None; a user's norm is recognized by its name."""
    if isinstance(module, (nn.Linear, nn.Bilinear, CONVOLUTIONS)):
        return "linear"
    if isinstance(module, _NORMS) or "norm" in type(module).__name__.lower():
        return "norm"
    is_activation = type(module).__module__ == "torch.nn.modules.activation" and type(module).__name__ not in _MIXING
    return "activation" if is_activation else None


@contextmanager
def recording(network: nn.Module, kinds: tuple[str, ...], keep: Callable[[Tensor], Any]) -> Iterator[list[Call]]:
    """Record the calls of the network's linear layers, norms and activations within the block, in order.

    Args:
        kinds: which of these to record.
        keep: returns what to keep of a tensor, such as a copy, because a later layer may change it in place.
    """
    calls: list[Call] = []
    inputs: dict[nn.Module, Any] = {}
    handles = []

    def before(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if arguments and isinstance(arguments[0], Tensor):
            inputs[module] = keep(arguments[0])

    def after(name: str, kind: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
            x = inputs.pop(module, None)
            if x is not None and isinstance(result, Tensor):
                calls.append(Call(name, kind, module, x, keep(result)))

        return hook

    inner: set[nn.Module] = set()
    for name, module in network.named_modules():
        kind = kind_of(module)
        if kind in kinds and module is not network and module not in inner:
            inner.update(module.modules())  # a norm that contains others counts as a whole
            handles.append(module.register_forward_pre_hook(before))
            handles.append(module.register_forward_hook(after(name, kind or "")))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def channels_last(x: Tensor, dim: int) -> Tensor:
    """Reshape (N, ..., C) or (N, C, ...), with the units in `dim`, to (values, C)."""
    if x.dim() < 2:
        return x.reshape(-1, 1)
    return x.movedim(dim, -1).reshape(-1, x.shape[dim])


def copy(x: Tensor) -> Tensor:
    return torch.clone(x.detach())
