"""Check the settings of a network without building it."""

from collections.abc import Mapping
from typing import Any

from bnlab.errors import UserError
from bnlab.text.resemblance import closest, did_you_mean

__all__ = ["ACTIVATIONS", "check_network"]

ACTIVATIONS = ("relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid", "identity")  # of `bnlab.network`

_NETWORKS = ("bnlab.network.MLP", "bnlab.MLP")
_BATCH_NORMS = (
    *("bnlab.batch_norm.BatchNorm1d", "bnlab.BatchNorm1d", "torch.nn.BatchNorm1d"),
    *("bnlab.batch_norm.BatchRenorm1d", "bnlab.batch_norm.GhostBatchNorm1d"),
)


def check_network(settings: Mapping[str, Any]) -> None:
    """Check the network's settings.

    Raises:
        UserError: the activation is unknown, or batches have one sample although there is batch norm.
    """
    model, norm = settings["model"], settings["norm"]
    is_ours = model.get("_target_") in _NETWORKS
    if is_ours and model.get("activation", "relu") not in ACTIVATIONS:
        likely = [f"model.activation={name}" for name in closest(str(model["activation"]), ACTIVATIONS)]
        meant = f": {did_you_mean(likely)}" if likely else "."
        raise UserError(
            f"`model.activation` must be one of {', '.join(ACTIVATIONS)}, but got {model['activation']!r}{meant}"
        )
    if is_ours and model.get("hidden") and norm.get("_target_") in _BATCH_NORMS and settings["data"]["batch_size"] == 1:
        raise UserError(
            "`data.batch_size` must be at least 2 with batch norm, which needs a variance over the batch, but got 1; "
            "norm=none trains on single samples."
        )
