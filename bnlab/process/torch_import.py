"""An import of torch interrupted by a signal, after which the process can neither import torch again nor exit normally.

Python forgets `torch` but keeps its submodules. Importing them again raises arbitrary errors, and the exit handlers of
half-initialized libraries may end in a segmentation fault.
"""

import os
import sys

__all__ = ["end_if_cut_short", "is_cut_short"]


def is_cut_short() -> bool:
    return "torch" not in sys.modules and "torch._C" in sys.modules


def end_if_cut_short(exit_code: int) -> None:
    """End the process at once with `exit_code` if it cannot exit normally; its files must already be closed."""
    if is_cut_short():
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):  # nobody reads it
                continue
        os._exit(exit_code)
