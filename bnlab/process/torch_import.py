"""An import of torch interrupted by a signal, after which the process can neither import torch again nor exit normally.

Python forgets `torch` but keeps its submodules. Importing them again raises arbitrary errors, and the exit handlers of
half-initialized libraries may end in a segmentation fault.
"""

import os
import sys

__all__ = ["exit_if_interrupted", "was_interrupted"]


def was_interrupted() -> bool:
    return "torch" not in sys.modules and "torch._C" in sys.modules


def exit_if_interrupted(exit_code: int) -> None:
    """End the process at once with `exit_code` if it cannot exit normally; its files must already be closed."""
    if was_interrupted():
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):  # nobody reads it
                continue
        os._exit(exit_code)
