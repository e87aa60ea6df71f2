"""How another library's private name is asked for: it may be gone, or elsewhere, in the next version."""

from importlib import import_module
from typing import Any

__all__ = ["private_name"]


def private_name(path: str, otherwise: Any) -> Any:
    """What stands at "package.module:Class.attribute"; `otherwise` where a part of the path is missing."""
    module, _, attributes = path.partition(":")
    try:
        found: Any = import_module(module)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except (ImportError, AttributeError):
        return otherwise
    return found
