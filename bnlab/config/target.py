"""Replaces `hydra.utils.instantiate` for plain arguments, as it is slow to build a network; delete when it is not.

Figures: bnlab/bench/records/library_functions.md.
"""

import functools
from collections.abc import Mapping
from typing import Any

from bnlab.config.trust import known_target
from bnlab.internals.hydra_internals import instantiate

__all__ = ["build_target"]

_PLAIN = (str, int, float, bool, type(None))


def build_target(arguments: Mapping[str, Any], **objects: Any) -> Any:
    """`hydra.utils.instantiate(arguments, **objects)` with plain lists and dicts for the target.

    The known parts of bnlab, `torch.nn` and `torch.optim` (`bnlab.config.trust`) that get only numbers, texts and lists
    of them are called directly; all others go by Hydra and its rules of what may be called.

    Args:
        arguments: the resolved group, with its `_target_`; with `_partial_` the call is left to the caller.
        objects: further arguments, passed on as they are.
    """
    plain = dict(arguments)
    name, is_partial = plain.pop("_target_", None), plain.pop("_partial_", False)
    target = known_target(name) if isinstance(name, str) else None
    if (
        target is None
        or not isinstance(is_partial, bool)
        or not all(key[:1] != "_" and _is_plain(value) for key, value in plain.items())
    ):
        return instantiate(dict(arguments), **objects, _convert_="all")
    plain |= objects
    return functools.partial(target, **plain) if is_partial else target(**plain)


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, list | tuple) else isinstance(value, _PLAIN)
