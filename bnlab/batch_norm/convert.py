"""Convert a model's layers from torch's batch norm to ours, and back."""

from typing import Any, Literal, TypeVar

from torch import nn

from bnlab.batch_norm.ghost import GhostBatchNorm1d
from bnlab.batch_norm.module import BatchNorm1d
from bnlab.batch_norm.renorm import BatchRenorm1d
from bnlab.errors import UserError

__all__ = ["convert"]

Model = TypeVar("Model", bound=nn.Module)


def convert(model: Model, to: Literal["bnlab", "torch"] = "bnlab") -> Model:
    """Make every `torch.nn.BatchNorm1d` of `model` a `bnlab.BatchNorm1d`, or with to="torch" the other way round.

    The conversion is in place: the layers remain the same objects with their parameters, statistics, mode and hooks, so
    that optimizers, shared layers and wrappers stay valid. Subclasses, parametrized layers and layers over images or
    volumes are left alone.

    Returns:
        The model.
    Raises:
        UserError: with to="torch", if torch has no counterpart of a layer: ghost batch norm, batch renormalization or a
            frozen layer. Nothing is changed then.
    """
    if to not in ("bnlab", "torch"):
        raise UserError(f"`to` must be 'bnlab' or 'torch', but got {to!r}.")
    if to == "bnlab":
        for layer in model.modules():
            if type(layer) is nn.BatchNorm1d:
                layer.__class__ = BatchNorm1d
        return model
    for name, layer in model.named_modules():
        if type(layer) in (GhostBatchNorm1d, BatchRenorm1d):
            raise UserError(
                f"{name or 'The model'!r} is a {type(layer).__name__}, which torch has no counterpart of: put "
                "BatchNorm1d in its place first."
            )
        if type(layer) is BatchNorm1d and layer.frozen:
            raise UserError(f"{name or 'The model'!r} is frozen, which torch's layer cannot be: unfreeze it first.")
    own_layers: list[Any] = [layer for layer in model.modules() if type(layer) is BatchNorm1d]
    for layer in own_layers:
        for name in ("fp32_buffers", "frozen", "trainable_before", "mode_to_return_to"):
            layer.__dict__.pop(name, None)
        layer.__class__ = nn.BatchNorm1d
    return model
