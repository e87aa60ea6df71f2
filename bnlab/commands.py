"""The commands of bnlab, in the order in which `python -m bnlab` lists them."""

import importlib.metadata

__all__ = ["COMMANDS", "version"]

COMMANDS = ("train", "evaluate", "bench")
"""Modules of `bnlab`, or packages with a `__main__`; what one does is the first line of its docstring."""


def version() -> str:
    return f"bnlab {importlib.metadata.version('bnlab')}"
