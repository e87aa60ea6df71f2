"""What a config's `_target_` names, called with the rest of it: by Hydra, or directly where that is the same."""

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["build_target"]

_PLAIN = (str, int, float, bool, type(None))
_DIRECT = ("bnlab.", "torch.nn.", "torch.optim.")


def build_target(arguments: Mapping[str, Any], **objects: Any) -> Any:
    """`hydra.utils.instantiate(arguments, **objects)` with plain lists and dicts for the target.

    That takes 5 ms, more than building a network. Classes and functions of bnlab, `torch.nn` and `torch.optim` that
    get only numbers, texts and lists of them are called directly; all others go by Hydra and its rules of what may be
    called.

    Args:
        arguments: the resolved group, with its `_target_`; with `_partial_` the call is left to the caller.
        objects: further arguments, passed on as they are.
    """
    plain = dict(arguments)
    name, is_partial = plain.pop("_target_", None), plain.pop("_partial_", False)
    target = _direct_target(name) if isinstance(name, str) else None
    if (
        target is None
        or not isinstance(is_partial, bool)
        or not all(key[:1] != "_" and _is_plain(value) for key, value in plain.items())
    ):
        from hydra.utils import instantiate

        return instantiate(dict(arguments), **objects, _convert_="all")
    plain |= objects
    return functools.partial(target, **plain) if is_partial else target(**plain)


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, list | tuple) else isinstance(value, _PLAIN)


@functools.cache
def _direct_target(name: str) -> Callable[..., Any] | None:
    """The class or function at the dotted path `name`, None if it is not ours or torch's, however it got there."""
    if not name.startswith(_DIRECT):
        return None
    module, _, attribute = name.rpartition(".")
    try:
        target = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        return None  # Hydra says what is wrong
    return target if callable(target) and f"{getattr(target, '__module__', None)}.".startswith(_DIRECT) else None
