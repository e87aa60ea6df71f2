"""The version of bnlab, installed or run from a checkout."""

import importlib.metadata
import tomllib
from pathlib import Path

__all__ = ["own_version"]


def own_version() -> str:
    """As its installation says; of a checkout that is not installed, as its pyproject.toml says."""
    try:
        return importlib.metadata.version("bnlab")
    except importlib.metadata.PackageNotFoundError:
        settings = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
        return str(settings["project"]["version"])
