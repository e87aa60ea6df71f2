"""Check the outputs of a network before a loss broadcasts them or fails on them."""

from torch import Tensor

from bnlab.errors import UserError

__all__ = ["check_outputs"]


def check_outputs(outputs: object, num_samples: int, num_outputs: int | None) -> None:
    """Refuse outputs of the wrong shape or type.

    Args:
        outputs: the outputs of the network for a batch of `num_samples`.
        num_outputs: the number of classes, None if unknown, or 1 for a regression.
    Raises:
        UserError: they are no tensor (num_samples, num_outputs) of real floating-point numbers.
    """
    if isinstance(outputs, Tensor):
        if outputs.dim() == 2 and len(outputs) == num_samples and num_outputs in (None, outputs.shape[1]):
            if outputs.is_floating_point():
                return
            given = f"numbers of the type {str(outputs.dtype).removeprefix('torch.')}"
        else:
            given = str(tuple(outputs.shape))
    else:
        given = "None" if outputs is None else f"an object of type {type(outputs).__name__}"
    if num_outputs == 1:
        rule = f"With task=regression the network must return one real number per sample, ({num_samples}, 1)"
    else:
        width = "classes" if num_outputs is None else num_outputs
        rule = f"The network must return one real number per sample and class, ({num_samples}, {width})"
    raise UserError(f"{rule}, but returns {given}.")
