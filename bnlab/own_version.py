"""The version of bnlab, installed or run from a checkout."""

import importlib.metadata
import tomllib
from pathlib import Path

__all__ = ["own_version"]


def own_version() -> str:
    """Return the installed version or, in a checkout that is not installed, the version in pyproject.toml."""
    try:
        return importlib.metadata.version("bnlab")
    except importlib.metadata.PackageNotFoundError:
        settings = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
        return str(settings["project"]["version"])
