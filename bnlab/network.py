"""The fully connected network: where batch norm is placed, and which biases it makes redundant."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

from bnlab.errors import UserError
from bnlab.internals.torch_internals import BatchNormBase
from bnlab.rules import RULES

__all__ = ["ACTIVATIONS", "MLP", "has_batch_norm", "num_parameters"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


class MLP(nn.Sequential):
    r"""A multilayer perceptron, with a normalization in every hidden layer.

    With placement "before", each hidden layer is
        z = W a,   a' = g(norm(z))
    and with "after" it is
        z = W a + b,   a' = norm(g(z)).
    The output layer is z = W a + b alone. A batch norm that directly follows a linear layer subtracts the mean of z and
    with it any b, so bias "auto" omits b there and only there (Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.2).
    A normalization over the features of one sample (layer norm) does not cancel b, so b is kept.

    Args:
        input_shape: the shape of one sample, which is flattened, or its number of features.
        num_classes: the number of outputs (logits).
        hidden: the widths of the hidden layers; an empty list gives softmax regression.
        activation: a key of `ACTIVATIONS`.
        norm: a function from the width of a layer to its normalization; None for none.
        placement: "before" or "after" the activation.
        bias: "auto", or True or False to force it in every hidden layer.
    Shapes:
        input (N, \*input_shape), output (N, num_classes).
    Raises:
        UserError: a width below 1, an unknown activation, placement or bias.
    """

    def __init__(
        self,
        input_shape: int | Sequence[int],
        num_classes: int,
        *,
        hidden: Sequence[int] = (100, 100, 100),
        activation: str = "relu",
        norm: Callable[[int], nn.Module] | None = None,
        placement: str = "before",
        bias: bool | str = "auto",
    ) -> None:
        RULES["model.hidden"].check("hidden", hidden)
        RULES["model.bias"].check("bias", bias)
        RULES["norm.placement"].check("placement", placement)
        if activation not in ACTIVATIONS:
            raise UserError(f"`activation` must be one of {', '.join(ACTIVATIONS)}, but got {activation!r}.")
        num_features = input_shape if isinstance(input_shape, int) else math.prod(input_shape)
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in pairwise([num_features, *hidden]):
            following: list[nn.Module] = [] if activation == "identity" else [ACTIVATIONS[activation]()]
            if norm is not None:
                following.insert(0 if placement == "before" else len(following), norm(fan_out))
            redundant = bool(following) and isinstance(following[0], BatchNormBase)
            layers += [nn.Linear(fan_in, fan_out, bias=not redundant if bias == "auto" else bool(bias)), *following]
        layers.append(nn.Linear(hidden[-1] if hidden else num_features, num_classes))
        super().__init__(*layers)


def has_batch_norm(network: nn.Module) -> bool:
    """Whether any layer normalizes with the statistics of the mini-batch, ours or torch's."""
    return any(isinstance(module, BatchNormBase) for module in network.modules())


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
