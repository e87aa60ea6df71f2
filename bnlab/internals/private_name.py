"""Look up a private name of another library, which may be gone in its next version."""

from importlib import import_module
from typing import Any

__all__ = ["private_name"]


def private_name(path: str, otherwise: Any) -> Any:
    """Return the object at "package.module:Class.attribute", or `otherwise` if a part of the path is missing."""
    module, _, attributes = path.partition(":")
    try:
        found: Any = import_module(module)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except (ImportError, AttributeError):
        return otherwise
    return found
