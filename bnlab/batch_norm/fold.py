r"""Fold a batch norm into the layer before or after it, for inference: exact in evaluation mode, and undone.

In evaluation mode the layer is affine, y = scale x + shift with scale = weight / sqrt(running_var + eps) and
shift = bias - running_mean * scale (Jacob et al. 2017, arXiv:1712.05877, section 3.2).
    before:  norm(W x + b)   = (scale W) x + (scale b + shift)
    after:   W norm(x) + b   = (W scale) x + (W shift + b)
"""

import copy
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["fold", "unfold"]

Affine: TypeAlias = nn.Linear | nn.Conv1d


def fold(first: nn.Module, second: nn.Module) -> Affine:
    """One layer that does what `first` and then `second` do in evaluation mode.

    Args:
        first, second: a batch norm and an `nn.Linear` or `nn.Conv1d`, in the order in which they are applied. A batch
            norm before a `Conv1d` folds only where nothing is padded: its shift would have to be padded, too.
    Returns:
        A new `nn.Linear` or `nn.Conv1d` with a bias; `first` and `second` stay as they are.
    Raises:
        ValueError: if they are no such pair, in training mode, or without running statistics.
    """
    layer, norm, norm_is_last = pair(first, second)
    scale, shift = scale_and_shift(norm)
    weight = layer.weight.detach().double()
    bias = torch.zeros_like(scale[:1]) if layer.bias is None else layer.bias.detach().double()
    rest = (1,) * (weight.dim() - 2)
    if norm_is_last:
        weight, bias = weight * scale.view(-1, 1, *rest), bias * scale + shift
    else:
        bias = bias + (weight * shift.view(1, -1, *rest)).flatten(1).sum(1)
        weight = weight * scale.view(1, -1, *rest)
    return rebuilt(layer, weight, bias, with_bias=True)


def unfold(folded: Affine, first: nn.Module, second: nn.Module) -> Affine:
    """The layer that `fold(first, second)` made `folded` of, from `folded` as it is now.

    What is learned in `folded` is kept: `fold(unfold(folded, linear, norm), norm)` is `folded` again, to rounding.

    Args:
        folded: what `fold` returned.
        first, second: as they were given to `fold`; of the one that is no batch norm only the kind is used.
    Returns:
        A new `nn.Linear` or `nn.Conv1d`, with a bias if the original had one or if it needs one now.
    Raises:
        ValueError: as `fold`, and where a scale is 0, which cannot be divided by.
    """
    layer, norm, norm_is_last = pair(first, second)
    scale, shift = scale_and_shift(norm)
    if (scale == 0).any():
        raise ValueError("A batch norm can be unfolded only if no weight is 0, but some are: fold a copy and keep it.")
    weight, bias = folded.weight.detach().double(), folded.bias.detach().double()  # type: ignore[union-attr]
    rest = (1,) * (weight.dim() - 2)
    if norm_is_last:
        weight, bias = weight / scale.view(-1, 1, *rest), (bias - shift) / scale
    else:
        weight = weight / scale.view(1, -1, *rest)
        bias = bias - (weight * shift.view(1, -1, *rest)).flatten(1).sum(1)
    negligible = torch.finfo(folded.weight.dtype).eps * (1 + shift.abs().max() / scale.abs().min())
    with_bias = layer.bias is not None or bool((bias.abs() > 8 * negligible).any())
    return rebuilt(layer, weight, bias, with_bias=with_bias)


def pair(first: nn.Module, second: nn.Module) -> tuple[Affine, _BatchNorm, bool]:
    norm_is_last = isinstance(second, _BatchNorm)
    layer, norm = (first, second) if norm_is_last else (second, first)
    if not isinstance(norm, _BatchNorm) or not isinstance(layer, nn.Linear | nn.Conv1d):
        raise ValueError(
            "`fold` takes a batch norm and an nn.Linear or nn.Conv1d, in the order in which they are applied, but got "
            f"{type(first).__name__} and {type(second).__name__}."
        )
    if norm.training or norm.running_mean is None:
        state = "in training mode: call `.eval()` first" if norm.training else "without any (track_running_stats=False)"
        raise ValueError(
            f"A batch norm folds with its running statistics, in evaluation mode, but this one is {state}."
        )
    num_features = layer.weight.shape[0 if norm_is_last else 1] * (1 if norm_is_last else getattr(layer, "groups", 1))
    if num_features != norm.num_features:
        raise ValueError(f"The layers must fit each other, but {num_features} features meet {norm.num_features}.")
    if not norm_is_last and isinstance(layer, nn.Conv1d) and (layer.padding not in ((0,), "valid") or layer.groups > 1):
        raise ValueError(
            "A batch norm folds into a Conv1d after it only without padding and groups, but got "
            f"padding={layer.padding}, groups={layer.groups}: fold it into the layer before."
        )
    return layer, norm, norm_is_last


def scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """In double, so that folding adds one rounding and no more."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()


def rebuilt(layer: Affine, weight: Tensor, bias: Tensor, *, with_bias: bool) -> Affine:
    result = copy.deepcopy(layer)
    result.weight = nn.Parameter(weight.to(layer.weight), requires_grad=layer.weight.requires_grad)
    result.register_parameter("bias", nn.Parameter(bias.to(layer.weight)) if with_bias else None)
    return result
