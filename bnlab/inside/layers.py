"""The inputs and outputs of each layer of a trained network."""

import copy as copying
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bnlab.inside.passes import Call, channels_last, copy, recording

__all__ = ["BatchStatistics", "Layer", "batch_statistics", "layers_of"]

AT_REST = 0.01  # a smaller slope lets hardly any gradient through


@dataclass(frozen=True)
class BatchStatistics:
    """The batch statistics of a normalization's input in training, with the current weights.

    Attributes:
        mean, var: (batches, C); var with n - 1, as in the running variance.
    """

    mean: Tensor
    var: Tensor


@dataclass(frozen=True)
class Layer:
    """A linear layer with the normalization and the activation after it; each may be missing.

    Attributes:
        name: "layer 1" or, in a network with names of its own, that of the linear layer; "output" for the last layer
                if it has neither an activation nor a normalization.
        before: the input of the normalization, (values, C), or without one the output of the linear layer.
        after: the output of the normalization, (values, C), or None.
        weight, bias: γ and β, (C,), or None.
        running_mean, running_var: (C,), or None.
        batches: the batch statistics of the normalization, or None.
        active: for each unit, the share of values at which the activation has a slope, (C,), or None.
    """

    name: str
    before: Tensor
    after: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    running_mean: Tensor | None = None
    running_var: Tensor | None = None
    batches: BatchStatistics | None = None
    active: Tensor | None = None

    @property
    def num_units(self) -> int:
        return self.before.shape[1]

    @property
    def num_dead(self) -> int | None:
        """Count the units whose activation has zero slope at every value, so that no gradient reaches them."""
        return None if self.active is None else int((self.active == 0).sum())


def layers_of(network: nn.Module, x: Tensor, batches: dict[str, BatchStatistics] | None = None) -> list[Layer]:
    """Return the layers of `network` in evaluation mode on the samples `x`, in the order in which they run.

    Args:
        batches: the result of `batch_statistics`, by the name of the normalization.
    """
    network.eval()
    with torch.no_grad(), recording(network, ("linear", "norm", "activation"), copy) as calls:
        network(x)
    return [_layer(group, number, batches or {}) for number, group in enumerate(_grouped(calls), 1)]


def _grouped(calls: Sequence[Call]) -> list[dict[str, Call]]:
    """Group each linear layer with the first norm and the first activation before the next linear layer."""
    groups: list[dict[str, Call]] = []
    for call in calls:
        if not groups or call.kind == "linear" or call.kind in groups[-1]:
            groups.append({})
        groups[-1][call.kind] = call
    return groups


def _layer(group: dict[str, Call], number: int, batches: dict[str, BatchStatistics]) -> Layer:
    linear, norm, activation = (group.get(kind) for kind in ("linear", "norm", "activation"))
    first = linear or norm or activation
    assert first is not None
    dim = -1 if linear is None or isinstance(linear.module, nn.Linear | nn.Bilinear) else 1
    if linear is None and first.x.dim() > 2:
        dim = 1
    parts: dict[str, Any] = {"before": channels_last(first.y if linear else first.x, dim)}
    if norm is not None:
        parts["before"], parts["after"] = channels_last(norm.x, dim), channels_last(norm.y, dim)
        for name in ("weight", "bias", "running_mean", "running_var"):
            value = getattr(norm.module, name, None)
            if isinstance(value, Tensor) and value.shape == (parts["before"].shape[1],):
                parts[name] = value.detach()
        parts["batches"] = batches.get(norm.name)
    if activation is not None:
        parts["active"] = channels_last(_has_slope(activation), dim).float().mean(0)
    return Layer(_name(group, number), **parts)


def _name(group: dict[str, Call], number: int) -> str:
    if set(group) == {"linear"}:
        return "output"
    name = next(iter(group.values())).name
    return f"layer {number}" if all(part.isdecimal() for part in name.split(".")) else name


def _has_slope(activation: Call) -> Tensor:
    """Return where the derivative of the activation is at least `AT_REST` in absolute value."""
    x = activation.x.clone().requires_grad_()
    with torch.enable_grad():
        y = activation.module.forward(x * 1)  # it may work in place, which a leaf does not allow
        (slope,) = torch.autograd.grad(y.sum(), x)
    return slope.abs() >= AT_REST


def batch_statistics(network: nn.Module, batches: Iterable[Tensor]) -> dict[str, BatchStatistics]:
    """Return, by the name of each normalization, mean and variance of its input in each mini-batch, as in training.

    The network, including its running statistics, is unchanged.
    """
    trained = copying.deepcopy(network).train()
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    with torch.no_grad(), torch.random.fork_rng(devices=[]), recording(trained, ("norm",), copy) as calls:
        for x in batches:
            calls.clear()
            trained(x)
            for call in calls:
                running = getattr(call.module, "running_mean", None)
                if not isinstance(running, Tensor) or call.x.numel() <= running.numel():
                    continue  # it has seen no batch, or a single value
                values = channels_last(call.x, 1)
                found.setdefault(call.name, []).append((values.mean(0), values.var(0)))
    return {
        name: BatchStatistics(torch.stack([mean for mean, _ in of_name]), torch.stack([var for _, var in of_name]))
        for name, of_name in found.items()
    }
