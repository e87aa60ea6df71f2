r"""Fold a batch norm into the layer before or after it for inference, exactly as in evaluation mode, and undo it.

In evaluation mode the layer is affine, y = scale x + shift with scale = weight / sqrt(running_var + eps) and
shift = bias - running_mean * scale (Jacob et al. 2017, arXiv:1712.05877, section 3.2).
    before:  norm(W x + b)   = (scale W) x + (scale b + shift)
    after:   W norm(x) + b   = (W scale) x + (W shift + b)
"""

import copy
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from bnlab.batch_norm.ghost import GhostBatchNorm1d
from bnlab.batch_norm.module import BatchNorm1d
from bnlab.batch_norm.renorm import BatchRenorm1d
from bnlab.internals.torch_internals import BatchNormBase, has_forward_hooks

__all__ = ["fold", "unfold"]

Affine: TypeAlias = nn.Linear | nn.Conv1d

# A subclass with its own forward may compute anything.
FORWARDS = {
    kind.forward
    for kind in (
        nn.Linear,
        nn.Conv1d,
        nn.BatchNorm1d,
        nn.SyncBatchNorm,
        BatchNorm1d,
        GhostBatchNorm1d,
        BatchRenorm1d,
    )
}


def fold(first: nn.Module, second: nn.Module) -> Affine:
    """Return one layer that does what `first` and then `second` do in evaluation mode.

    Args:
        first, second: a batch norm and an `nn.Linear` or `nn.Conv1d`, in the order in which they are applied. A batch
            norm before a `Conv1d` folds only without zero padding, because its shift would have to be padded, too.
    Returns:
        A new `nn.Linear` or `nn.Conv1d` with a bias, which requires a gradient if the layer's bias or, without one, its
        weight does; `first` and `second` are not changed.
    Raises:
        ValueError: if they are no such pair, are in training mode, have no running statistics, or compute more than
            their parameters say: by their own forward, by hooks, or by a parametrized, normalized or pruned weight.
    """
    layer, norm, norm_is_last = pair(first, second)
    scale, shift = scale_and_shift(norm)
    weight = layer.weight.detach().double()
    bias = torch.zeros_like(scale[:1]) if layer.bias is None else layer.bias.detach().double()
    rest = (1,) * (weight.dim() - 2)
    trainable = (layer.weight if layer.bias is None else layer.bias).requires_grad
    if norm_is_last:
        weight, bias = weight * scale.view(-1, 1, *rest), bias * scale + shift
    else:
        bias = bias + (weight * shift.view(1, -1, *rest)).flatten(1).sum(1)
        weight = weight * scale.view(1, -1, *rest)
    return rebuilt(layer, weight, bias, trainable=trainable)


def unfold(folded: Affine, first: nn.Module, second: nn.Module) -> Affine:
    """Undo `fold(first, second)`: return the layer that gives `folded` as it is now when it is folded again.

    What was learned in `folded` is kept: `fold(unfold(folded, linear, norm), norm)` is `folded` again, up to rounding.

    Args:
        folded: what `fold` returned.
        first, second: the arguments of `fold`; of the one that is not a batch norm only the kind is used.
    Returns:
        A new `nn.Linear` or `nn.Conv1d`, with a bias if the original had one or if it needs one now.
    Raises:
        ValueError: as in `fold`, and if a scale is 0, by which nothing can be divided.
    """
    layer, norm, norm_is_last = pair(first, second)
    check_computes_by_parameters(folded)
    scale, shift = scale_and_shift(norm)
    if (scale == 0).any():
        raise ValueError("A batch norm can be unfolded only if no weight is 0, but some are: fold a copy and keep it.")
    assert folded.bias is not None
    weight, bias = folded.weight.detach().double(), folded.bias.detach().double()
    rest = (1,) * (weight.dim() - 2)
    if norm_is_last:
        weight, bias = weight / scale.view(-1, 1, *rest), (bias - shift) / scale
    else:
        weight = weight / scale.view(1, -1, *rest)
        bias = bias - (weight * shift.view(1, -1, *rest)).flatten(1).sum(1)
    negligible = torch.finfo(folded.weight.dtype).eps * (1 + shift.abs().max() / scale.abs().min())
    if layer.bias is None and bool((bias.abs() <= 8 * negligible).all()):
        return rebuilt(folded, weight, None)
    return rebuilt(folded, weight, bias, trainable=folded.bias.requires_grad)


def pair(first: nn.Module, second: nn.Module) -> tuple[Affine, BatchNormBase, bool]:
    norm_is_last = isinstance(second, BatchNormBase)
    layer, norm = (first, second) if norm_is_last else (second, first)
    if not isinstance(norm, BatchNormBase) or not isinstance(layer, nn.Linear | nn.Conv1d):
        raise ValueError(
            "`fold` takes a batch norm and an nn.Linear or nn.Conv1d, in the order in which they are applied, but got "
            f"{type(first).__name__} and {type(second).__name__}."
        )
    for module in (first, second):
        check_computes_by_parameters(module)
    if norm.training or norm.running_mean is None:
        state = "in training mode: call `.eval()` first" if norm.training else "without any (track_running_stats=False)"
        raise ValueError(
            f"A batch norm folds with its running statistics, in evaluation mode, but this one is {state}."
        )
    num_features = layer.weight.shape[0 if norm_is_last else 1] * (1 if norm_is_last else getattr(layer, "groups", 1))
    if num_features != norm.num_features:
        raise ValueError(f"The layers must fit each other, but {num_features} features meet {norm.num_features}.")
    if not norm_is_last and isinstance(layer, nn.Conv1d):
        pads_zeros = layer.padding not in ((0,), "valid") and layer.padding_mode == "zeros"
        if pads_zeros or layer.groups > 1:
            raise ValueError(
                "A batch norm folds into a Conv1d after it only without padding by zeros and groups, but got "
                f"padding={layer.padding}, groups={layer.groups}: fold it into the layer before."
            )
    return layer, norm, norm_is_last


def check_computes_by_parameters(module: nn.Module) -> None:
    """Raise ValueError unless `module` computes exactly what its class computes from its parameters."""
    name = type(module).__name__
    if any(is_lazy(tensor) for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
        raise ValueError(f"A layer folds by its parameters, but {name} has none yet: call it on a batch first.")
    for parameter in ("weight", "bias"):
        if is_parametrized(module, parameter):
            if isinstance(module, BatchNormBase):  # its value is computed when it is read
                continue
            way_out = f"call `torch.nn.utils.parametrize.remove_parametrizations(layer, {parameter!r})`"
        elif not isinstance(getattr(module, parameter), nn.Parameter | None):
            way_out = "call `remove_weight_norm`, `remove_spectral_norm` or `prune.remove` of `torch.nn.utils`"
        else:
            continue
        raise ValueError(
            f"A layer folds by its parameters, but the {parameter} of {name} is computed from others: {way_out} first."
        )
    if type(module).forward not in FORWARDS or "forward" in vars(module):
        raise ValueError(f"A layer folds only if it computes what its class does, but {name} has a forward of its own.")
    if has_forward_hooks(module):
        raise ValueError(f"A layer folds without hooks on its forward, but {name} has some: remove them first.")
    if isinstance(module.weight, Tensor) and not module.weight.is_floating_point():
        raise ValueError(f"A layer folds in floating point, but the weight of {name} is {module.weight.dtype}.")


def scale_and_shift(norm: BatchNormBase) -> tuple[Tensor, Tensor]:
    """Compute the scale and the shift in double, so that folding adds only one rounding."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()


def rebuilt(layer: Affine, weight: Tensor, bias: Tensor | None, *, trainable: bool = True) -> Affine:
    result = copy.deepcopy(layer)
    result.weight = nn.Parameter(weight.to(layer.weight), requires_grad=layer.weight.requires_grad)
    new_bias = None if bias is None else nn.Parameter(bias.to(layer.weight), requires_grad=trainable)
    result.register_parameter("bias", new_bias)
    return result
