"""A function of one network, applied to each network of a stack, for operations of torch that know no stack."""

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor

__all__ = ["map_networks"]


def map_networks(function: Callable[..., Any], stack: tuple[int, ...], *arguments: Any) -> Any:
    """What `function` returns, of the arguments of each network, stacked; what is no tensor, networks share."""
    if not stack:
        return function(*arguments)
    results = [
        function(*(each[index] if isinstance(each, Tensor) and each.dim() else each for each in arguments))
        for index in product(*map(range, stack))
    ]
    return [None if each[0] is None else torch.stack(each).unflatten(0, stack) for each in zip(*results, strict=True)]
