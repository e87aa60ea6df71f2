"""Freeze batch norm layers: they normalize by their running statistics and learn nothing."""

from torch import nn

from bnlab.batch_norm.module import BatchNorm1d
from bnlab.internals.torch_internals import BatchNormBase

__all__ = ["freeze", "unfreeze"]


def freeze(network: nn.Module) -> None:
    """Let every batch norm in `network` normalize by its running statistics and learn nothing, in training mode too.

    This is for fine-tuning on small batches. `network.train()` does not undo it; `unfreeze` does. torch's own
    `SyncBatchNorm.convert_sync_batchnorm` replaces the layers by others, which `train()` unfreezes.

    Raises:
        ValueError: if `network` has a batch norm other than ours, which `train()` would unfreeze.
    """
    for norm in norms_of(network):
        if not norm.frozen:
            norm.trainable_before = [name for name, parameter in norm.named_parameters() if parameter.requires_grad]
            norm.mode_to_return_to = norm.training
        norm.frozen = True
        norm.requires_grad_(False)
        norm.training = False


def unfreeze(network: nn.Module) -> None:
    """Undo `freeze`: a frozen batch norm trains the same parameters as before and follows the network's mode."""
    for norm in norms_of(network):
        if not norm.frozen:
            continue
        norm.frozen = False
        for name, parameter in norm.named_parameters():
            if name in norm.trainable_before:
                parameter.requires_grad_(True)
        norm.train(norm.mode_to_return_to if norm is network else network.training)


def norms_of(network: nn.Module) -> list[BatchNorm1d]:
    norms = [module for module in network.modules() if isinstance(module, BatchNormBase)]
    ours = [norm for norm in norms if isinstance(norm, BatchNorm1d)]
    if len(ours) < len(norms):
        other = next(norm for norm in norms if not isinstance(norm, BatchNorm1d))
        raise ValueError(
            f"Only bnlab.batch_norm.BatchNorm1d can be frozen, but the network has a {other}: "
            "bnlab.convert(network) makes torch's ours."
        )
    return ours
